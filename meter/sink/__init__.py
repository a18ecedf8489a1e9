"""The history sink: each event of the log once into ClickHouse, and the API over what is there.

It knows no Faust, no provider and nobody who is alerted.
"""
