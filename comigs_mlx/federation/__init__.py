"""Participants that improve one another's generalists through one repository."""
