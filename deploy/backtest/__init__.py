"""Replays the history of usage through the rules of a policy, and tells what it would have refused and saved."""
