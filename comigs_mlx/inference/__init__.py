"""Text from a mixture, and the trace of who spoke."""
