"""A conversation in the terminal: colours, commands, what is typed and kept."""
