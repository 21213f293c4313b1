"""Text in, batches out: files -> splits -> tokens -> batches. NumPy only, no MLX."""
