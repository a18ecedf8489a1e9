"""Bodies are decoded strictly and edited in place."""

from __future__ import annotations

import json

import pytest

from ingress.core.strict_json import (
    InputError,
    append_member,
    read_object,
    replace_member,
    replace_text_member,
)


def test_object_is_decoded() -> None:
    """A body without faults gives its fields."""
    assert read_object(b'{"model":"m","n":2,"deep":{"a":[{"a":1},{"a":2}]}}')["deep"] == {"a": [{"a": 1}, {"a": 2}]}


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (b'{"model":"a","model":"b"}', "model"),
        (b'{"model":"a","model":"a"}', "model"),
        (b'{"a":{"b":1,"b":2}}', "b"),
        (b'{"a":[{"x":1},{"b":1,"b":2}]}', "b"),
        (b'{"a" :1,"a":2}', "a"),
        (b'{"a"\n:1,"a":2}', "a"),
        (b'{"a"\t:1,"a":2}', "a"),
        (b'{"a"\r:1,"a":2}', "a"),
        (b'{"a":1,"\\u0061":2}', "a"),
        (b'{"model":"a","x\\\\":1,"model":"b"}', "model"),
        # text that might make up for the member that decoding dropped
        (b'{"model":"a","model":"b","t":"\\u0022:"}', "model"),
        (b'{"model":"a","model":"b","t":"\\u003ax"}', "model"),
        (b'{"model":"a","model":"b","t":"\\u003Ax"}', "model"),
        (b'{"a":{"x\\":":1},"a":":"}', "a"),
    ],
)
def test_duplicate_key_is_refused_by_name(body: bytes, named: str) -> None:
    """Of two equal keys in one object none is taken, wherever and however they are written."""
    with pytest.raises(InputError, match=f"'{named}' is given twice"):
        read_object(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":":x","b":":"}',
        b'{"text":"say \\":\\" and {\\"a\\":1,\\"a\\":2}"}',
        b'{"text":"\\u0022:\\u003a"}',
        b'{"a\\":b":1,"a\\":c":2}',
        b' { "a" : 1 , "b" : [ { "a" : 1 } ] } ',
        b'{"smile":" :-) :"}',
        b'{"big":123456789012345678901234567890,"f":1.5e3}',
        '{"é":"日本","\U0001f600":1}'.encode(),
    ],
)
def test_body_without_duplicates_passes(body: bytes) -> None:
    """Text that looks like members, spaces and escapes do not make a body suspicious."""
    assert read_object(body) == json.loads(body)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"", "empty"),
        (b"{", "not JSON"),
        (b'{"a":1}x', "not JSON"),
        (b'{"a":NaN}', "not JSON"),
        (b"[1]", "array"),
        (b'"x"', "string"),
        (b"1", "number"),
        (b"null", "null"),
        (b"true", "boolean"),
        (b"\xef\xbb\xbf{}", "not JSON"),
        (b'{"a":"\xff"}', "not JSON"),
        (b'{"a":"\\ud800"}', "not JSON"),
        (b'{"a":' + b"[" * 100_000, "nested too deeply"),
    ],
)
def test_what_is_no_object_is_refused(body: bytes, told: str) -> None:
    """Everything but one JSON object in UTF-8 is an input error that says what is wrong."""
    with pytest.raises(InputError, match=told):
        read_object(body)


def test_long_number_passes_the_full_check() -> None:
    """The full check converts no number, whatever its length."""
    assert read_object(b'{"a" :1,"n":%b}' % (b"1" * 4000))["a"] == 1


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b'{"model":"a","x":1}', b'{"model":"new","x":1}'),
        (b'{"x":1,"model": "a"}', b'{"x":1,"model": "new"}'),
        (b'{ "messages":[{"model":"a"}] , "model" :"a"}', b'{ "messages":[{"model":"a"}] , "model" :"new"}'),
        (b'{"note":"\\"model\\":\\"a\\"","model":"a"}', b'{"note":"\\"model\\":\\"a\\"","model":"new"}'),
        (b'{"x":"model","mod\\u0065l":"a"}', b'{"x":"model","mod\\u0065l":"new"}'),
        ('{"é":"model","model":"a"}'.encode(), '{"é":"model","model":"new"}'.encode()),
    ],
)
def test_text_member_is_replaced_and_nothing_else(body: bytes, expected: bytes) -> None:
    """Only the outermost member changes; every other byte stays."""
    assert replace_text_member(body, "model", "a", "new") == expected


def test_member_of_any_kind_is_replaced() -> None:
    """Objects, null and numbers are replaced where they stand."""
    body = b'{"a":1, "opts" : {"x":[1,2]} ,"z":{"opts":3}}'
    assert replace_member(body, "opts", b"null") == b'{"a":1, "opts" : null ,"z":{"opts":3}}'


def test_member_is_appended() -> None:
    """A new member goes before the last brace, whatever space follows it."""
    assert append_member(b'{"a":{}} \n', "b", b"1") == b'{"a":{},"b":1} \n'
