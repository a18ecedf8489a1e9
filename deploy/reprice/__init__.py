"""Computes the cost of past usage anew, and posts the differences."""
