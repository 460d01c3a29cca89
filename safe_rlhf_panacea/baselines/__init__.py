"""Baselines on the same trainers: Rewarded Soups and Discrete Policy Solutions."""
