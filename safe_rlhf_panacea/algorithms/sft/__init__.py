"""Panacea with supervised fine-tuning."""
