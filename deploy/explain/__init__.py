"""Recomputes decisions from the log: what a row held at a fence, what a replica might have had, what follows."""
