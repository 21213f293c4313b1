"""One module per kind of source that `--data` names; the file name is its name.

A source module has

    ORDER: int                        sources are tried in this order, smallest first
    matches(source: str) -> bool      whether it reads `source`
    read(source: str, reading: Reading = DEFAULT, advance: Advance = ignore)
        -> RawSplits                  returns the samples or raises a `DataError`; calls
                                      `advance` as it reads, which ends it by raising
"""
