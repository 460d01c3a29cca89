"""Panacea with reinforcement learning from several rewards."""
