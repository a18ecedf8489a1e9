"""How long uploaded sound is, from its size: at most, to reserve, and probably, where nobody says it afterwards.

PCM in a WAV file says its bytes a second, and players go by that. Of all else only the size is known without decoding
it: at least a kilobyte a second, which is the lowest rate of MP3 and below what speech codecs need to be understood;
probably four, which is 32 kbit/s.
"""

from __future__ import annotations

from collections.abc import Iterable

from ingress.core.multipart import File

LEAST_BYTES_PER_S = 1_000
LIKELY_BYTES_PER_S = 4_000
_PCM = 1
_MOST_CHANNELS = 64
_HEAD_BYTES = 36
"""Of a WAV file whose first chunk is its format, as nearly all are."""


def most_ms(files: Iterable[File]) -> int:
    """Return how many milliseconds the sound has at most."""
    return sum(_length_ms(file, LEAST_BYTES_PER_S) for file in files)


def likely_ms(files: Iterable[File]) -> int:
    """Return how many milliseconds the sound probably has."""
    return sum(_length_ms(file, LIKELY_BYTES_PER_S) for file in files)


def _length_ms(file: File, bytes_per_s: int) -> int:
    return -(-file.size * 1000 // (_pcm_rate(file.first) or bytes_per_s))


def _pcm_rate(first: bytes) -> int:
    """Return the bytes a second of a PCM file; 0 if it is none, or one that contradicts itself."""
    if len(first) < _HEAD_BYTES or (first[:4], first[8:16]) != (b"RIFF", b"WAVEfmt "):
        return 0

    def number(at: int, size: int) -> int:
        return int.from_bytes(first[at : at + size], "little")

    channels, samples_per_s, rate, bits = number(22, 2), number(24, 4), number(28, 4), number(34, 2)
    is_sound = number(20, 2) == _PCM and 0 < channels <= _MOST_CHANNELS and bits in (8, 16, 24, 32)
    return rate if is_sound and rate == samples_per_s * channels * bits // 8 else 0
