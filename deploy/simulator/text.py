"""The simulator's prose: `n` words are `n` tokens, the same ones every time. Pure; safe inside JSON strings."""

from functools import lru_cache

_TEXT = "every call is counted once and every count is kept until the month ends so that teams can see what they spent"
_WORDS = tuple(_TEXT.split())


@lru_cache(maxsize=256)
def words(count: int) -> bytes:
    """Return `count` words, separated by single spaces."""
    return b"".join(pieces(count, 1))


@lru_cache(maxsize=256)
def pieces(count: int, chunks: int) -> tuple[bytes, ...]:
    """Return `count` words cut into exactly `chunks` pieces, which may be empty; together they are `words(count)`."""
    spaced = [(" " if at else "") + _WORDS[at % len(_WORDS)] for at in range(count)]
    return tuple(
        "".join(spaced[at * count // chunks : (at + 1) * count // chunks]).encode("ascii") for at in range(chunks)
    )
