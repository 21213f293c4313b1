"""Many participants on one machine: methods compared as the paper compares them."""
