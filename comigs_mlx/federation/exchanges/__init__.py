"""The places of a federation's files: the protocol `base.Exchange` and its kinds."""
