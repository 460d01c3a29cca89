"""A trained adapter served over HTTP: every request has its own λ, all of them run in one batch."""
