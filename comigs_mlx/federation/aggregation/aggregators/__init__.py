"""Aggregators: one file each, named by the manifest's `aggregator`.

An aggregator file has

    SUMMARY: str                   one line for --help and the model card
    HANDLES_RANKS: bool            whether contributions may have ranks of their own;
                                   results always have the rank of `current`
    ROBUST: bool                   whether a minority of hostile contributions cannot
                                   move the result far
    OPTIONS: dict[str, Option]     numbers it can be told, with their limits
    aggregate(contributions, current, **options) -> Aggregate

`contributions` is a sequence of `Source` (name, tokens, names(), read(tensor)), sorted
by participant, never empty; `current` is the `Source` of the generalists that all of
them started from. Arrays that are read must not be written to. Tensors are made one
linear at a time, sums are in float64, results are float32. Call it through
`comigs_mlx.federation.aggregation.aggregate`, which checks and sorts.
"""
