"""What a federation writes: its file formats, read strictly. Knows no network."""
