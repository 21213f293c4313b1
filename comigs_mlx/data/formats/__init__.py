"""One module per source format; the file name is the format's name.

A format module has

    ORDER: int                        formats are tried in this order, smallest first
    matches(source: str) -> bool      whether it reads `source`
    read(source: str, advance: Advance = ignore) -> RawSplits
                                      returns the samples or raises a `DataError`; calls
                                      `advance` as it reads, which ends it by raising
"""
