"""What of a run other programs can read, made of its experts."""
