"""Kafka and the price list behind the control plane."""
