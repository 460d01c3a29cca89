"""The tables of stages and sizes, and what runs them for the launchers in ``bash/``."""
