"""The control plane: policy versions, virtual keys, audit, thresholds and alerts, block entries, and the admin API.

It reads what the meter publishes and never sees a request; whatever it decides reaches the others on topics.
"""
