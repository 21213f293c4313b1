"""One module per source format; the file name is the format's name.

A format module has

    ORDER: int                        formats are asked in this order, smallest first
    matches(source: str) -> bool      whether it reads `source`
    read(source: str, advance: Advance = ignore) -> Source
                                      the samples, or a `DataError`; `advance` is told
                                      how far it is, and may end it
"""
