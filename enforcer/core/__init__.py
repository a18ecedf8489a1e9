"""Decisions of the control plane as pure functions: state, fact and now in; new state and effects out."""
