"""Simulated margins of models, where the truth is known."""


def retrained(pairs, samples, rng):
    """Margins of models that have "forgotten" by retraining, and of those that never held: no difference, but samples
    and models of their own kind."""
    mean, spread = rng.normal(3, 2, samples), rng.lognormal(0, 0.3, samples)
    return tuple(mean + spread * rng.normal(size=(pairs, samples)) for _ in range(2))
