"""Runs Tollway: local stack, simulated provider, broker, and the command line."""
