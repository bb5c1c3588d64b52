"""Unlearning methods. Each file holds one: a frozen dataclass of its settings whose call is its maths."""
