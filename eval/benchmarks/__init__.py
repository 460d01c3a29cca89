"""Benchmarks: ``run.py`` measures the parts, ``serving.py`` the server."""
