"""The quickstart: its own corpus, a model small enough for a laptop, and every stage on them."""
