"""Contracts of Tollway: what flows between its processes, and the vocabulary they share.

Nothing here knows a Kafka client, an HTTP server, Faust or a ClickHouse client. Every other package imports this
one; it imports none of them.
"""
