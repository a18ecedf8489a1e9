"""Proxy hot path: authenticates, admits, forwards and meters one request at a time."""
