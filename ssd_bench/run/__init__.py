"""The stages of one run, and what joins them."""
