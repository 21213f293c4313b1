"""What happens in a round: submit, review, close, verify."""
