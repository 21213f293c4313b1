"""The steps of a round: submit, review, close, verify."""
