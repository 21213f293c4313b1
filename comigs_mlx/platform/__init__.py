"""Everything that exists for Linux CPUs; on Apple silicon nothing of it runs.

`switch` alone says what of it is needed here.
"""
