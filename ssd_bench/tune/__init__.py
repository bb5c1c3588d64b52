"""Tuning every method alike: search spaces, and studies on requests that are never reported."""
