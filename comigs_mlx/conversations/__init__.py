"""What is said with a model: kept, rendered, and laid over with who spoke."""
