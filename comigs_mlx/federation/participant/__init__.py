"""A run's part in a federation: join, pull, train, push."""
