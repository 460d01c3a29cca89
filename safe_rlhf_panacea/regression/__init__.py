"""Whether today's code still gives the numbers that a reference holds."""
