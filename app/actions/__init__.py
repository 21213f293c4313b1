"""What the page's buttons do, one file a tab: plain data in, plain data out."""
