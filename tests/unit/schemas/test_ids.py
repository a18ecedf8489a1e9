"""Identifiers: ordered event ids, recognisable secrets, a stable shard."""

from __future__ import annotations

import uuid

import pytest

from schemas.ids import KEY_PREFIX, format_id, new_secret, parse_id, secret_hash, shard_of, uuid7, uuid7_ends

SHARDS = [2, 2, 0, 3]


def test_an_event_id_is_a_uuid_of_version_seven() -> None:
    """RFC 9562: 48 bits of milliseconds, version, variant; the rest is random."""
    value = uuid7(1_645_557_742_000, bytes.fromhex("0cc318c4dc0c0c07398f"))
    parsed = uuid.UUID(bytes=value)
    assert parsed.version == 7
    assert parsed.variant == uuid.RFC_4122
    assert int.from_bytes(value[:6], "big") == 1_645_557_742_000


def test_ids_are_ordered_by_time_and_differ_by_chance() -> None:
    """A later millisecond sorts behind, other random bytes make another id."""
    assert uuid7(1, b"\xff" * 10) < uuid7(2, bytes(10))
    assert uuid7(1, bytes(10)) != uuid7(1, bytes(9) + b"\x01")
    assert uuid7(1, b"\x02" + bytes(9)) != uuid7(1, bytes(10)), "74 of the 80 bits are used"


def test_an_id_and_its_text_are_the_same() -> None:
    """Canonical text, both ways; anything else is refused."""
    text = "0192f0c1-2b7e-7c33-9d2a-6a1f0e7d4b55"
    assert format_id(parse_id(text)) == text
    with pytest.raises(ValueError, match="badly formed"):
        parse_id("not-an-id")


def test_a_secret_is_recognisable_and_has_all_its_random_bits() -> None:
    """Prefix and 43 URL-safe characters; too few random bytes are refused."""
    secret = new_secret(bytes(range(32)))
    assert secret.startswith(KEY_PREFIX)
    assert len(secret) == len(KEY_PREFIX) + 43
    assert new_secret(bytes(31) + b"\x01") != new_secret(bytes(32))
    with pytest.raises(ValueError, match="32 random bytes"):
        new_secret(bytes(31))


def test_a_hash_is_the_sha256_of_the_secret() -> None:
    """The known digest of a known text."""
    assert secret_hash(b"abc").hex() == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"


def test_an_organisation_never_changes_its_shard() -> None:
    """These numbers are frozen: another function would move counts between partitions."""
    assert [shard_of(org, 4) for org in ("acme", "globex", "", "ümläut")] == SHARDS
    assert all(shard_of(f"org{number}", 1) == 0 for number in range(9))


def test_ends_made_ahead_are_those_of_uuid7s() -> None:
    """Each is what `uuid7` makes of some random bytes, every random bit counts, and a rest makes none."""
    for fill in (bytes(30), b"\xff" * 30, bytes(range(30))):
        ends = uuid7_ends(fill + b"rest")
        assert len(ends) == 3
        for end in ends:
            value = uuid.UUID(bytes=bytes(6) + end)
            assert (value.version, value.variant) == (7, uuid.RFC_4122)
    bits = {uuid7_ends((1 << bit).to_bytes(10, "big"))[0] for bit in range(80)}
    assert len(bits) == 74 + 1, "74 bits are random; the six others change nothing"
