"""Responses and their log-probabilities from vLLM servers, at the λ of each request."""
