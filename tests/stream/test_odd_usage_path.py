"""Providers that lie about usage, through the whole ingress: the client gets its answer, the limits get their due."""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest

from deploy.simulator.wishes import Hostile
from schemas.flags import ODD
from tests.stream.ingress_lab import POLICY, SECRET, Lab, running

OUTPUT = 40
HOSTILE = [name for name in Hostile.__args__ if name not in ("no_total", "usage_null")]  # type: ignore[attr-defined]  # of a Literal
UNSAID = ("usage_empty", "missing", "null")
"""Nothing odd is told: the total says what is missing, or a stream has no usage at all."""
LIMITED = POLICY + "limits: [{name: few, per: [team], tpm: 10_000_000, rpm: 2}]\n"


def _body(route: str, how: str, stream: bool, given: int = OUTPUT) -> dict[str, Any]:
    """Return a request for an answer of `OUTPUT` tokens whose usage is `how`."""
    text = f"[[sim output={given} hostile={how}]] say something"
    if route == "responses":
        return {"model": "gpt-4o-mini", "input": text, "stream": stream, "max_output_tokens": 400}
    if route == "completions":
        return {"model": "gpt-4o-mini", "prompt": text, "stream": stream, "max_tokens": 400}
    messages = [{"role": "user", "content": text}]
    model = "claude-sonnet" if route == "messages" else "gpt-4o-mini"
    return {"model": model, "messages": messages, "stream": stream, "max_tokens": 400}


async def _post(lab: Lab, route: str, body: dict[str, Any]) -> httpx.Response:
    path = "/v1/chat/completions" if route == "chat" else f"/v1/{route}"
    async with httpx.AsyncClient(base_url=lab.url, headers={"authorization": f"Bearer {SECRET}"}) as http:
        return await http.post(path, json=body)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("route", ["chat", "responses", "completions", "messages"])
async def test_lie_is_made_good_flagged_and_told(route: str, stream: bool) -> None:
    """Whatever is wrong with the usage: 200, the whole answer, a bounded charge, known flags, a decision for each."""
    async with running() as lab:
        said: set[str] = set()
        for count, how in enumerate(HOSTILE, 1):
            answer = await _post(lab, route, _body(route, how, stream))
            assert answer.status_code == 200
            assert len(re.findall(r"\w+", answer.text)) > OUTPUT, "the answer is there"
            event = (await lab.journal.until(count))[-1]
            assert event.status == "settled", how
            flags = () if event.detail is None else event.detail.flags
            assert flags or (how, stream) == ("usage_list", True) or how in UNSAID, (how, flags)
            assert set(flags) <= set(ODD)
            said |= set(flags)
            assert event.usage.all_input > 0
            assert OUTPUT // 4 <= event.usage.all_output <= 2_100_000, (how, event.usage)
            assert event.cost_nanos is not None
            assert event.charge_tokens == event.usage.total
        told = {(decision.action, decision.reason) for decision in lab.journal.decisions}
        assert told == {("odd", flag) for flag in said}
        assert len(lab.journal.decisions) == len(told), "each flag is told once, not once a request"
        assert set(lab.stats.odd) == said
        assert {"negative", "oversized", "not_finite", "fractional", "not_a_number", "contradictory"} <= said


@pytest.mark.parametrize("how", HOSTILE)
async def test_lie_lifts_no_limit(how: str) -> None:
    """Each request counts, with tokens, whatever its provider says of them: the third one is refused."""
    async with running(LIMITED) as lab:
        codes = [(await _post(lab, "chat", _body("chat", how, False))).status_code for _ in range(3)]
        events = await lab.journal.until(3)
    assert codes == [200, 200, 429]
    assert all(event.charge_tokens > 0 for event in events[:2])
