"""A Hub model repository as an exchange."""
