"""Identifiers: UUIDv7 event ids, virtual-key secrets and their hashes, the shard of an organisation.

Pure: callers bring the clock and the random bytes.
"""

import base64
import hashlib
import uuid
import zlib

KEY_PREFIX = "tw-"
"""What every virtual-key secret begins with, so that scanners and people recognise one."""

ID_BYTES = 16
NO_ID = bytes(ID_BYTES)
_RANDOM_BITS = bytes.fromhex("0fff3fffffffffffffff")
_FIXED_BITS = bytes.fromhex("70008000000000000000")
"""Version and variant of a UUIDv7, behind its time."""


def uuid7(now_ms: int, random: bytes) -> bytes:
    """Return the 16 bytes of a UUIDv7 (RFC 9562 §5.7) for unix milliseconds `now_ms` and 10 `random` bytes."""
    noise = int.from_bytes(random[:10], "big")
    value = (now_ms & 0xFFFFFFFFFFFF) << 80 | 0x7 << 76 | ((noise >> 62) & 0xFFF) << 64
    return (value | 0x2 << 62 | (noise & 0x3FFFFFFFFFFFFFFF)).to_bytes(16, "big")


def uuid7_ends(random: bytes) -> list[bytes]:
    """Return what follows the six bytes of time in UUIDv7s: one for each 10 `random` bytes, 74 bits of them used."""
    count = len(random) // 10
    noise = int.from_bytes(random[: 10 * count], "big")
    ends = (noise & int.from_bytes(_RANDOM_BITS * count, "big")) | int.from_bytes(_FIXED_BITS * count, "big")
    found = ends.to_bytes(10 * count, "big")
    return [found[at : at + 10] for at in range(0, len(found), 10)]


def format_id(value: bytes) -> str:
    """Return the canonical text (8-4-4-4-12 hex digits) of a 16-byte id."""
    return str(uuid.UUID(bytes=value))


def parse_id(text: str) -> bytes:
    """Return the 16 bytes of an id in canonical text; ValueError if it is none."""
    return uuid.UUID(text).bytes


def new_secret(random: bytes) -> str:
    """Return a virtual-key secret made of 32 `random` bytes: `tw-` and 43 URL-safe characters."""
    if len(random) < 32:
        raise ValueError("a virtual-key secret needs 32 random bytes")
    return KEY_PREFIX + base64.urlsafe_b64encode(random[:32]).rstrip(b"=").decode()


def secret_hash(secret: bytes) -> bytes:
    """Return the SHA-256 of a virtual-key secret, the only form of it that is kept.

    A plain hash is enough because a secret has 256 random bits: there is nothing to guess or to stretch.
    """
    return hashlib.sha256(secret).digest()


def shard_of(org: str, partitions: int) -> int:
    """Return the partition that holds everything of `org`: one writer and one total order per organisation."""
    return zlib.crc32(org.encode()) % partitions
