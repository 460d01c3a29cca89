"""Models that give a value to a response."""
