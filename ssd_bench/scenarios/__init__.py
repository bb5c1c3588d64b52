"""What is to be forgotten. Each file holds one scenario: its settings, and Dataset -> Request."""
