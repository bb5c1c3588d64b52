"""Recipes, the training loop, inference, the device."""
