"""Where a federation's files are: the protocol `base.Exchange` and what speaks it."""
