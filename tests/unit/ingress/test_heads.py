"""Heads of answers: what passes, and what was meant for the hop only."""

from __future__ import annotations

import pytest

from tests.unit.ingress.playbook import ANSWER, NOW, Stage


@pytest.mark.parametrize("value", [b"close, X-Hop, x-Other", b"X-Hop,x-other ,keep-alive"])
def test_headers_that_were_meant_for_the_hop_end_here(value: bytes) -> None:
    """What the provider's `connection` names goes no further, as it says."""
    stage = Stage()
    stage.sent()
    headers = [(b"x-hop", b"1"), (b"Connection", value), (b"X-Other", b"2"), (b"x-kept", b"3")]
    stage.exchange.provider_head(200, headers, NOW)
    stage.exchange.provider_data(ANSWER, NOW)
    stage.exchange.provider_end(NOW)
    stage.exchange.terminal_recorded()
    lines = stage.told[1].lower()
    assert b"x-kept: 3" in lines
    assert not any(dropped in lines for dropped in (b"x-hop", b"x-other", b"connection"))
