"""What was said with a model: kept, drawn and given away as files; no MLX, no page."""
