"""Fronts: measuring them, indicators, the one form in which they are kept, comparison."""
