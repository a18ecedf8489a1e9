"""Usage of answers as providers really give them, over all protocols and servers, however the network cuts them."""

from __future__ import annotations

import itertools
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ingress.core.counts import MAX_TOKENS
from schemas.flags import ODD
from tests.contract.cassette_player import BY_NAME, Cassette, cassettes

ALL = cassettes()
STREAMS = [cassette for cassette in ALL if cassette.is_stream]
SECRET = re.compile(r"sk-[A-Za-z0-9]|tw-[A-Za-z0-9]|[Aa]uthorization|Bearer |@[a-z]+\.(?:com|org)")


@pytest.mark.parametrize("cassette", ALL, ids=repr)
def test_answer_is_read_as_its_reference_means_it(cassette: Cassette) -> None:
    """Classes, units, tier, served model, flags and the way it ended; the client gets every byte."""
    expected, played = cassette.expected, cassette.play([cassette.body])
    reported = played.reported
    assert reported.usage == cassette.usage
    assert reported.model == expected["model"]
    assert reported.units == expected.get("units", {})
    assert reported.service_tier == expected.get("service_tier", "")
    assert reported.flags == tuple(expected.get("flags", ()))
    assert reported.is_final is expected.get("final", reported.usage is not None)
    assert (played.failed, reported.fault) == (expected.get("failed", ""), "")
    if cassette.is_stream:
        assert played.is_ended is expected.get("ended", False)
        assert played.is_complete is expected.get("complete", False)
    hidden = _hidden(cassette)
    assert len(hidden) == expected.get("hidden", 0)
    assert played.out == b"".join(event for event in _events(cassette) if event not in hidden)


@pytest.mark.parametrize("cassette", [each for each in ALL if each.usage is not None], ids=repr)
def test_classes_sum_to_the_provider_s_total(cassette: Cassette) -> None:
    """Where the answer has a total, no token is lost or counted twice."""
    totals = re.findall(rb'"total_tokens" ?: ?(\d+)', cassette.body)
    usage = cassette.play([cassette.body]).reported.usage
    assert usage is not None
    if totals and cassette.fields["server"] != "perplexity" and '"arguments"' not in cassette.body.decode():
        last = [int(total) for total in totals if int(total)][-1:]
        assert last == [usage.total]


def test_cassettes_cover_what_is_served() -> None:
    """Every operation, streams of all that have them, many servers; each says where it is from."""
    assert len(ALL) >= 40
    assert {cassette.operation.name for cassette in ALL} == set(BY_NAME)
    streamed = {
        "chat.completions", "completions", "responses", "messages", "images.generations", "images.edits",
        "audio.speech", "audio.transcriptions",
    }  # fmt: skip
    assert {cassette.operation.name for cassette in STREAMS} == streamed
    assert len({cassette.fields["server"] for cassette in ALL}) >= 15
    for cassette in ALL:
        assert cassette.fields["source"].startswith("https://"), cassette
        assert set(cassette.fields) <= {
            "server", "source", "operation", "request", "note", "answer", "events", "hides_usage", "line_end",
            "expected", "files",
        }  # fmt: skip
        assert not SECRET.search(cassette.body.decode()), cassette


@pytest.mark.parametrize("cassette", ALL, ids=repr)
def test_request_of_a_cassette_is_understood(cassette: Cassette) -> None:
    """The essentials of the request pass the reader of its operation."""
    ask = cassette.operation.read(cassette.request)
    assert ask.model == cassette.fields["request"]["model"]
    assert ask.stream is cassette.is_stream


@pytest.mark.slow
@pytest.mark.parametrize("cassette", STREAMS, ids=repr)
def test_cut_at_every_byte_gives_the_same(cassette: Cassette) -> None:
    """In two pieces at every offset: same usage, same bytes, same end."""
    body = cassette.body
    whole = cassette.play([body])
    for at in range(len(body) + 1):
        assert cassette.play([body[:at], body[at:]]) == whole, at


@pytest.mark.parametrize("cassette", STREAMS, ids=repr)
@pytest.mark.parametrize("size", [1, 2, 7, 64, 1000])
def test_pieces_of_any_size_give_the_same(cassette: Cassette, size: int) -> None:
    """Byte by byte, and in larger pieces of one size."""
    body = cassette.body
    pieces = [body[at : at + size] for at in range(0, len(body), size)]
    assert cassette.play(pieces) == cassette.play([body])


@settings(max_examples=150)
@given(st.data())
def test_random_pieces_give_the_same(data: st.DataObject) -> None:
    """Any number of cuts anywhere, with any line ends."""
    cassette = data.draw(st.sampled_from(STREAMS))
    body = cassette.body
    if b"\r" not in body:
        body = body.replace(b"\n", data.draw(st.sampled_from([b"\n", b"\r\n", b"\r"])))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=40)))
    pieces = [body[a:b] for a, b in itertools.pairwise([0, *cuts, len(body)])]
    assert cassette.play(pieces) == cassette.play([body])


HOSTILE = [
    b"-1", b"-9223372036854775809", b"1000000001", b"99999999999999999999999999", b"1e308", b"1e999", b"0.5", b"NaN",
    b"Infinity", b"-Infinity", b'"12"', b'"x"', b"true", b"[1]", b"{}", b"[" * 2000 + b"]" * 2000, b"null", b"0",
]  # fmt: skip
_COUNT = re.compile(rb'_(?:tokens|requests|queries|used)": ?(\d+)')


@settings(max_examples=300)
@given(st.data())
def test_hostile_numbers_break_nothing(data: st.DataObject) -> None:
    """Any count of any answer made impossible: no exception, every byte on its way, nothing below zero, known flags."""
    cassette = data.draw(st.sampled_from([each for each in ALL if _COUNT.search(each.body)]))
    body = cassette.body
    found = data.draw(st.sampled_from(list(_COUNT.finditer(body))))
    body = body[: found.start(1)] + data.draw(st.sampled_from(HOSTILE)) + body[found.end(1) :]
    cut = data.draw(st.integers(0, len(body)))
    played = cassette.play([body])
    assert cassette.play([body[:cut], body[cut:]]) == played
    reported = played.reported
    assert set(reported.flags) <= set(ODD)
    if not cassette.hides_usage:
        assert played.out == body
    if reported.usage is not None:
        assert min(msgspec.structs.astuple(reported.usage)) >= 0
        assert reported.usage.total <= 40 * MAX_TOKENS
    assert all(0 < count <= MAX_TOKENS for count in reported.units.values())


def _events(cassette: Cassette) -> list[bytes]:
    if not cassette.is_stream:
        return [cassette.body]
    end = cassette.fields.get("line_end", "\n")
    return [f"{event}\n\n".replace("\n", end).encode() for event in cassette.fields["events"]]


def _hidden(cassette: Cassette) -> list[bytes]:
    """Return the events that are the gateway's own: usage without choices, where it was not asked for."""
    if not cassette.hides_usage:
        return []
    return [event for event in _events(cassette) if b'"choices":[]' in event.replace(b" ", b"") and b"_tokens" in event]
