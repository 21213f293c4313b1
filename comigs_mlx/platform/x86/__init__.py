"""Functions that MLX's wheel computes slowly on an x86 CPU, from cheaper primitives.

On an x86 CPU, MLX's exponential, sigmoid or tanh takes 12 to 18 ns, as long as the base
products of that element; these functions take 2 to 5 ns. Apple silicon has fast ones,
so these are used on x86 only, for float32, and never for a single token.
"""
