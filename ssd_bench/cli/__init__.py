"""The commands: what the user types, and what they are told."""
