"""Image sources. Each file holds the settings of one source and a `load` that returns a Dataset."""
