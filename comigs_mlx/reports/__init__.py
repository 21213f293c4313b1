"""Reports on finished runs: who is needed where, and whether sharing helps."""
