"""What can go wrong with the history's store, apart from bugs."""

from __future__ import annotations

from schemas.errors import TollwayError, TransportError


class StoreUnavailable(TransportError):
    """The store did not take or answer something; the same again may succeed."""


class BadQuery(TollwayError):
    """A query that the store refuses; the message is for whoever asked it."""
