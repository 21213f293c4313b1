"""Everything that exists for Linux CPUs; on Apple silicon nothing of it runs.

`switch` alone decides which part of it is needed on this machine.
"""
