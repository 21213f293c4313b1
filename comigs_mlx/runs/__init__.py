"""The run folder and the formats of what it holds."""
