"""Aggregators: one file each, named by the manifest's `aggregator`.

An aggregator file has

    SUMMARY: str                   one line for --help and the model card
    HANDLES_RANKS: bool            whether contributions may have ranks of their own;
                                   results always have the rank of `current`
    ROBUST: bool                   whether a minority of hostile contributions cannot
                                   move the result far
    OPTIONS: dict[str, Option]     numbers it can be told, with their limits
    update(contributions, current, state, **options) -> Update

and, only where it keeps something from round to round,

    init(current, **options) -> State

`contributions` is a sequence of `Source` (name, tokens, names(), read(tensor)), sorted
by participant, never empty; `current` is the `Source` of the generalists that all of
them started from; `state` is what `init` gave before the first round and what the last
`update` gave since. Arrays that are read must not be written to. Tensors are made one
linear at a time, sums are in float64, results and state are float32. What is shared
should be computed from the state as it is rounded to float32, so that whoever computes
the round again gets the same. Call it through
`comigs_mlx.federation.aggregation.aggregate`, which checks and sorts.
"""
