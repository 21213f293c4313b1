"""One module per way to divide a labelled corpus among participants.

A partitioner module has

    SUMMARY: str                      one line for --help
    OPTIONS: dict[str, float]         its options and their defaults, numbers above 0
    assign(labels, participants, seed, **options) -> list[str]
                                      the participant of each document

`labels` has the label of each document, in the corpus' order; `participants` is the
number of participants, or None where the partitioner decides. A participant's name is a
folder name. `comigs_mlx.simulation.datasets.dividing` makes the folders.
"""
