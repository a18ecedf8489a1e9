"""Writes the reference pages of docs/ from the code: topics, policy and settings, metrics.

`python -m deploy.reference` writes them; a test compares what is committed with what would be written.
"""
