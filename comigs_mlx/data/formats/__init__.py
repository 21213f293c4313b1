"""One module per format of a file; the file name is the format's name.

A format module has

    ORDER: int                        formats are tried in this order, smallest first;
                                      from `GENERAL` on they also claim other formats'
                                      files, and only get what the others leave
    KIND: str                         the word of the report, such as "mail"
    NEEDS: str                        the extra that it needs (optional)
    matches(file: FileHead) -> bool   whether the file is of this format, told by its
                                      content; its name is only a hint
    read(path: Path, reading: Reading) -> Iterator[Piece]
                                      yields what the file holds, or raises a
                                      `DataError` that names file and line
"""

GENERAL = 80
"""The `ORDER` from which on a format may claim files of other formats."""
