"""Panacea with GRPO: groups of responses instead of a critic."""
