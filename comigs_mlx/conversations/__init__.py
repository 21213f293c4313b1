"""What was said with a model: kept, rendered, laid over with who spoke; no MLX."""
