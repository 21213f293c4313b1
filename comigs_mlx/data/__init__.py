"""Text in, batches out: formats -> splits -> tokens -> batches. NumPy only, no MLX."""
