"""Documents that strangers made: parsed in a child process, within limits.

    child     runs here: starts the child, watches it, and ends it
    worker    runs in the child: forbids itself network and writing, then parses
    pdf, docx, epub, hypertext, archive    run in the child

What runs in the child imports nothing else of this package, so that it loads neither
MLX nor its BLAS; the child knows this folder as the package `documents`.
"""
