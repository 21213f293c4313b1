"""The app: a local page to chat with a run, see who speaks, train and share."""
