"""The table of runs, and the runner that all pipelines share."""
