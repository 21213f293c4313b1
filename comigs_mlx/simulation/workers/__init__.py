"""Workers: who computes the methods and seeds of a comparison. One file each.

A worker is a module with

    SUMMARY               a sentence
    run(experiment, tasks, say, options) -> Iterator[SimulationEvent]
    class Options         what `--backend NAME:key=value` sets: a frozen dataclass of
                          `config.option` fields; where there is none, options is None
    NEEDS                 packages that are imported before anything is written

`run` computes tasks (a task is a method with a seed, see `shared.Tasks`) until all have
an outcome, and yields what happens. The bits of an outcome must not depend on who
computed it, nor on how many did: `--jobs` says how many.

There are two ways of dividing the work, and both are here. `local` and `shared` divide
a comparison: each process computes whole tasks, which know nothing of each other.
`ray` divides a task: its participants live in several processes, which train those of a
round side by side, while the engine keeps the order and the federation (see
`simulation.host.Host`).
"""
