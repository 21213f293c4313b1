"""One module per source format; the file name is the format's name.

A format module has

    ORDER: int                        formats are asked in this order, smallest first
    matches(source: str) -> bool      whether it reads `source`
    read(source: str) -> Source       the samples, or a `DataError`
"""
