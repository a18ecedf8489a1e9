"""Adapters of the ingress: input and output around the pure core."""
