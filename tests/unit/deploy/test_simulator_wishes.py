"""What the simulator understands of a request: directives, token counts, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deploy.simulator.ask import read_chat, read_embeddings, read_messages
from deploy.simulator.text import pieces, words
from deploy.simulator.wishes import NO_WISH, BadRequest, find_nonce, parse_wish


def test_prompt_without_directive_is_left_alone() -> None:
    """Nothing is asked, nothing is taken away."""
    assert parse_wish("tell me about [[sim output=3]]") == (NO_WISH, "tell me about [[sim output=3]]")


def test_directive_is_read_and_taken_off() -> None:
    """Every key of the table is understood."""
    wish, rest = parse_wish(
        "[[sim output=120 chunks=10 delay_ms=5 status=500 fail=truncate usage_input=4808 cached=100 cache_write=7"
        " reasoning=5 retry_after=9]] go on"
    )
    assert rest == "go on"
    assert (wish.output, wish.chunks, wish.delay_ms, wish.status, wish.fail) == (120, 10, 5, 500, "truncate")
    assert (wish.usage_input, wish.cached, wish.cache_write, wish.reasoning) == (4808, 100, 7, 5)
    assert wish.retry_after == 9


@pytest.mark.parametrize(
    ("directive", "named"),
    [
        ("outptu=3", "outptu"),
        ("output=-3", "'-3'"),
        ("output=1e3", "'1e3'"),
        ("output", "output"),
        ("status=200", "status"),
        ("status=600", "599"),
        ("chunks=0", "chunks"),
        ("fail=explode", "explode"),
    ],
)
def test_wrong_directive_is_refused_by_name(directive: str, named: str) -> None:
    """A typing error does not silently become a default."""
    with pytest.raises(BadRequest, match=named):
        parse_wish(f"[[sim {directive}]]")


def test_nonce_is_found_anywhere() -> None:
    """The nonce may stand anywhere in the prompt, as a word of its own."""
    assert find_nonce("please nonce=a-1.B:c_2, thanks") == "a-1.B:c_2"
    assert find_nonce("no announce=1 here") == ""
    assert find_nonce("nothing") == ""


def test_input_tokens_are_words_without_the_directive() -> None:
    """All text counts, of every message and part; the directive does not."""
    ask = read_chat(
        b'{"model":"m","messages":[{"role":"system","content":"be kind"},'
        b'{"role":"user","content":"first question"},{"role":"assistant","content":null},'
        b'{"role":"user","content":[{"type":"text","text":"[[sim output=3]] two words"},'
        b'{"type":"image_url","image_url":{"url":"x"}}]}]}'
    )
    assert (ask.input_tokens, ask.output_tokens) == (6, 3)


def test_system_prompt_of_anthropic_counts() -> None:
    """`system` is input, as text and as parts."""
    for system in (b'"a b"', b'[{"type":"text","text":"a b"}]'):
        body = b'{"model":"m","max_tokens":9,"system":%b,"messages":[{"role":"user","content":"c"}]}' % system
        assert read_messages(body).input_tokens == 3


@pytest.mark.parametrize(
    ("limits", "output", "is_cut"),
    [
        ("", 16, False),
        (',"max_tokens":5', 5, True),
        (',"max_tokens":500', 16, False),
        (',"max_completion_tokens":7', 7, True),
    ],
)
def test_default_output_is_bounded_by_the_limit(limits: str, output: int, is_cut: bool) -> None:
    """16 tokens, or the limit if it is lower."""
    ask = read_chat(f'{{"model":"m","messages":[{{"role":"user","content":"x"}}]{limits}}}'.encode())
    assert (ask.output_tokens, ask.is_cut) == (output, is_cut)


def test_wished_output_wins_over_the_limit() -> None:
    """Token counts are exactly as asked, so that overshoot can be tested."""
    ask = read_chat(b'{"model":"m","max_tokens":5,"messages":[{"role":"user","content":"[[sim output=50]]"}]}')
    assert (ask.output_tokens, ask.is_cut) == (50, False)


@pytest.mark.parametrize(
    ("given_input", "tokens", "vectors"),
    [
        ('"a b c"', 3, 1),
        ('["a b","c"]', 3, 2),
        ("[1,2,3,4]", 4, 1),
        ("[[1,2],[3]]", 3, 2),
        ('"[[sim usage_input=900]] a"', 900, 1),
    ],
)
def test_embedding_inputs(given_input: str, tokens: int, vectors: int) -> None:
    """Text, texts, tokens and lists of tokens are counted."""
    ask = read_embeddings(f'{{"model":"m","input":{given_input}}}'.encode())
    assert (ask.input_tokens, ask.vectors, ask.output_tokens) == (tokens, vectors, 0)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b'{"model":"m"}',
        b'{"messages":[]}',
        b'{"model":"m","messages":[]}',
        b'{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":0}',
        b'{"model":"m","messages":[{"role":"user","content":"[[sim output=3 reasoning=4]]"}]}',
        b'{"model":"m","messages":[{"role":"user","content":"[[sim usage_input=3 cached=2 cache_write=2]]"}]}',
    ],
)
def test_bad_chat_is_refused(body: bytes) -> None:
    """What cannot be answered is a `BadRequest`, never another exception."""
    with pytest.raises(BadRequest):
        read_chat(body)


@pytest.mark.parametrize(
    "body", [b'{"model":"m","input":[]}', b'{"model":"m","input":[{}]}', b'{"model":"m","input":[true]}']
)
def test_bad_embeddings_are_refused(body: bytes) -> None:
    """Empty input, and input of neither text nor tokens, is a `BadRequest`."""
    with pytest.raises(BadRequest):
        read_embeddings(body)


@given(count=st.integers(min_value=0, max_value=300), chunks=st.integers(min_value=1, max_value=100))
def test_pieces_are_the_words(count: int, chunks: int) -> None:
    """Any number of pieces of any number of words adds up to the words."""
    parts = pieces(count, chunks)
    assert len(parts) == chunks
    assert b"".join(parts) == words(count)
    assert len(words(count).split()) == count
