"""Compares provider invoices with the history, and posts what they say more or less."""
