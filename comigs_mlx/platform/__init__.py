"""Everything that exists for Linux CPUs; on Apple silicon nothing of it runs."""
