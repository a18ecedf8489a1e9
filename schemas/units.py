"""What is billed beside tokens: names of units, each counted as an integer. A price names what one of them costs."""

from __future__ import annotations

WEB_SEARCH = "web_search"
"""Searches that the provider ran for an answer."""
FILE_SEARCH = "file_search"
CODE_SESSION = "code_session"
"""Containers that the provider started to run code."""
IMAGES = "images"
"""Images made, where they are not billed by tokens."""
AUDIO_MS = "audio_ms"
"""Audio heard or spoken, in milliseconds, where it is not billed by tokens."""
CHARACTERS = "characters"
"""Characters of text that were spoken."""
SEARCHES = "searches"
"""Documents searched or ranked by a reranker."""

UNITS = (WEB_SEARCH, FILE_SEARCH, CODE_SESSION, IMAGES, AUDIO_MS, CHARACTERS, SEARCHES)
MAX_UNITS = 10**12
"""More of a unit than any answer has."""
