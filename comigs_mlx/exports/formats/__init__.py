"""What a run can be exported as: one file a format, its name the file's.

A format is a module with

    SUMMARY      what it writes, in a few words
    LIBRARY      the model card's `library_name`
    RELATION     the model card's `base_model_relation`
    DTYPES       the types that it can write
    usual_dtype(base) -> str             the one that is written where none is asked for
    check(job)                           raises where this base or job does not fit,
                                         before anything is computed
    write(job, folder)                   writes into a folder, which is empty
    read_back(job, folder)               a context manager of a `Mixture` whose
                                         selection `base` computes what the files do
    next_commands(job, out) -> [str]     what to type now; `out` is the final folder

`job` is an `exports.job.Job`. The model card, the licence's files, the measurement and
the refusal of what loses too much are the same for all (`exports.exporting`).
"""
