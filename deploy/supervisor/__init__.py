"""Starts the processes of a deployment on this machine, keeps them running, and stops them in order."""
