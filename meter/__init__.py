"""The meter: folds the log of usage into rows, shares and ledgers, and publishes them.

It knows no HTTP client, no provider and nobody who is alerted.
"""
