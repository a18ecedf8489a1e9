"""Forms, bytes and paths with ids through a real ingress: what passes, what is refused, what is held and charged."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from deploy.simulator.media_api import SOUND as PART
from tests.contract.sdk_usage import BY_TOKENS, BY_UNITS, POLICY, PRICES, SOUND, is_priced_right, said
from tests.stream.ingress_lab import SECRET, RawClient, client, post, running

IMAGES = "/v1/images/generations"
AUDIO = "/v1/audio/transcriptions"


def spoken(text: str, **fields: Any) -> dict[str, Any]:
    """Return the body of a request for speech."""
    return {"model": "tts-1", "input": text, "voice": "coral", **fields}


async def hear(
    http: httpx.AsyncClient, prompt: str = "", model: str = "whisper-1", size: int = 4_000
) -> httpx.Response:
    """Send sound."""
    return await http.post(AUDIO, data={"model": model, "prompt": prompt}, files={"file": ("a.mp3", SOUND[:size])})


# -- bytes -------------------------------------------------------------------------------------------------------------


async def test_bytes_are_passed_on_as_they_come() -> None:
    """The client has the first part of the sound long before the provider has sent the last one."""
    async with running(POLICY, prices=PRICES) as lab, client(lab) as http:
        body = spoken("[[sim chunks=4 delay_ms=60]] hello")
        async with http.stream("POST", "/v1/audio/speech", json=body) as answer:
            parts = answer.aiter_raw()
            assert await anext(parts) == PART
            assert lab.simulator.ledger.totals.requests == 0
            assert lab.journal.events == []
            rest = b"".join([part async for part in parts])
        assert rest == PART * 3
        assert answer.headers["content-type"] == "audio/mpeg"
        assert lab.journal.events[0].status == "settled"


async def test_last_bytes_wait_for_the_log() -> None:
    """While the terminal event is not on the log, the client does not have all of the sound."""
    async with running(POLICY, prices=PRICES) as lab:
        raw = await RawClient.connect(lab)
        raw.send(
            post(b'{"model":"tts-1","input":"[[sim chunks=3 delay_ms=10]] x","voice":"v"}', path="/v1/audio/speech")
        )
        async with asyncio.timeout(10):
            await raw.reader.readuntil(b"\r\n\r\n")
            lab.journal.held = []
            seen = b""
            while seen.count(PART) < 2:
                seen += await raw.reader.read(65_536)
            await lab.journal.until(1)
            assert seen.count(PART) == 2
            held, lab.journal.held = lab.journal.held, None
            for then in held:
                then()
            while not seen.endswith(b"0\r\n\r\n"):
                seen += await raw.reader.read(65_536)
            assert seen.count(PART) == 3
        await raw.close()


@pytest.mark.parametrize(("fail", "status"), [("truncate", "failed"), ("reset_midway", "failed")])
async def test_sound_that_breaks_off_is_charged(fail: str, status: str) -> None:
    """The client sees that it is incomplete; what the provider bills, the characters, is charged."""
    async with running(POLICY, prices=PRICES) as lab, client(lab) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            await http.post("/v1/audio/speech", json=spoken(f"[[sim fail={fail}]] hello"))
        (event,) = await lab.journal.until(1)
        assert (event.status, said(event)) == (status, {"characters": len(f"[[sim fail={fail}]] hello")})
        assert is_priced_right(event, "tts-1")


async def test_client_that_hangs_up_on_sound_is_charged() -> None:
    """As for text: an answer that has begun is charged as far as it is known."""
    async with running(POLICY, prices=PRICES) as lab, client(lab) as http:
        body = spoken("[[sim chunks=50 delay_ms=20]] hello")
        async with http.stream("POST", "/v1/audio/speech", json=body) as answer:
            await anext(answer.aiter_raw())
        (event,) = await lab.journal.until(1)
        assert (event.status, said(event)) == ("cancelled", {"characters": len(body["input"])})


async def test_error_instead_of_sound_is_told_and_free() -> None:
    """JSON where sound was asked for is read, and an error in it is one whatever its status says."""
    async with running(POLICY, prices=PRICES) as lab, client(lab) as http:
        answer = await http.post("/v1/audio/speech", json=spoken("[[sim fail=error_inside]] x"))
        assert answer.status_code == 200
        (event,) = lab.journal.events
        assert (event.status, event.error, event.charge_nanos) == ("failed", "provider_error_answer", 0)


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "content_type", "body", "status"),
    [
        (AUDIO, "application/json", b"{}", 415),
        (AUDIO, "multipart/form-data", b"", 415),
        (AUDIO, "multipart/form-data; boundary=b", b"--c\r\n", 400),
        (AUDIO, "multipart/form-data; boundary=b", b"", 400),
        (IMAGES, "multipart/form-data; boundary=b", b"--b--", 415),
        ("/v1/chat/completions", "multipart/form-data; boundary=b", b"--b--", 415),
        ("/v1/images/edits", "text/plain", b"x", 415),
        ("/v1/images/edits", "application/json", b'{"prompt":"x"}', 400),
    ],
)
async def test_bodies_of_another_kind_are_refused(path: str, content_type: str, body: bytes, status: int) -> None:
    """415 for another kind, 400 for one that is broken; the provider sees neither."""
    async with running(POLICY) as lab, client(lab) as http:
        answer = await http.post(path, content=body, headers={"content-type": content_type})
        assert answer.status_code == status
        assert answer.json()["error"]["message"]
        assert lab.simulator.ledger.totals.received == 0


async def test_two_content_types_are_refused() -> None:
    """Nobody can know which one the provider would take."""
    async with running(POLICY) as lab:
        raw = await RawClient.connect(lab)
        raw.send(post(b"{}", "content-type: multipart/form-data; boundary=b", path="/v1/images/edits"))
        assert (await raw.answer())[0] == 415
        await raw.close()


async def test_form_above_the_limit_is_refused() -> None:
    """The limit of bodies holds for forms."""
    async with running(POLICY) as lab, client(lab) as http:
        big = {"file": ("a.mp3", bytes(4_300_000))}
        assert (await http.post(AUDIO, data={"model": "whisper-1"}, files=big)).status_code == 413
        assert lab.journal.events[0].error == "body_too_large"


# -- limits ------------------------------------------------------------------------------------------------------------


async def test_images_are_held_by_their_number() -> None:
    """A budget refuses as many images as it cannot pay, before the provider makes them."""
    budget = "budgets: [{name: day, per: [team], amount: 0.10 USD, period: day}]\n"
    async with running(POLICY + budget, prices=PRICES) as lab, client(lab) as http:
        body = {"model": "dall-e-3", "prompt": "x"}
        assert (await http.post(IMAGES, json={**body, "n": 3})).status_code == 429
        assert (await http.post(IMAGES, json={**body, "n": 2})).status_code == 200
        assert (await http.post(IMAGES, json=body)).status_code == 429
        assert [entry.units for entry in lab.simulator.ledger.entries] == [{"images": 2}]


async def test_tokens_of_images_and_sound_count_in_limits() -> None:
    """The most is held, and given back when the usage is known."""
    limit = "limits: [{name: minute, per: [team, model], tpm: 5000}]\n"
    async with running(POLICY + limit, prices=PRICES) as lab, client(lab) as http:
        body = {"model": "gpt-image-2", "prompt": "x", "size": "1024x1024"}
        assert (await http.post(IMAGES, json={**body, "quality": "high"})).status_code == 200
        assert (await http.post(IMAGES, json={**body, "quality": "high"})).status_code == 429
        assert (await http.post(IMAGES, json={**body, "quality": "low"})).status_code == 200
        assert (await hear(http, model="gpt-4o-transcribe", size=102_400)).status_code == 200
        held = lab.journal.admissions[-1].charge_tokens
        assert held == 1_024 + 16 + 512 + 16
        assert lab.journal.events[-1].charge_tokens < held


async def test_cap_on_cost_holds_for_images() -> None:
    """A single request that may cost more than a cap allows is refused for good."""
    cap = "limits: [{name: cheap, per: [team], max_cost: 0.05 USD}]\n"
    async with running(POLICY + cap, prices=PRICES) as lab, client(lab) as http:
        assert (await http.post(IMAGES, json={"model": "dall-e-3", "prompt": "x", "n": 2})).status_code == 400
        assert (await http.post(IMAGES, json={"model": "dall-e-3", "prompt": "x"})).status_code == 200
        assert lab.journal.events[0].error == "max_cost"


async def test_model_without_a_price_is_held_and_unknown() -> None:
    """Its cost stays unknown, and limits move by the reserve price of the unit."""
    prices = {**PRICES, "dall-e-3": None, "whisper-1": BY_TOKENS}
    async with running(POLICY, prices=prices) as lab, client(lab) as http:
        await http.post(IMAGES, json={"model": "dall-e-3", "prompt": "x", "n": 2})
        await hear(http)
        made, heard = lab.journal.events
        assert (made.cost_nanos, made.charge_nanos, said(made)) == (None, 1_000_000_000, {"images": 2})
        assert (heard.cost_nanos, said(heard)) == (None, {"audio_ms": 1_000})
        assert heard.charge_nanos > 0


# -- hostile usage -----------------------------------------------------------------------------------------------------

HOSTILE = (
    "negative", "fractional", "infinite", "huge", "endless", "text", "null", "missing", "contradictory", "no_total",
    "usage_null", "usage_empty", "usage_list",
)  # fmt: skip


@pytest.mark.parametrize("how", HOSTILE)
async def test_hostile_usage_is_bounded(how: str) -> None:
    """Whatever a provider says of images and sound, the answer passes, is charged, and no more than is possible."""
    async with running(POLICY, prices={**PRICES, "pictures": BY_UNITS}) as lab, client(lab) as http:
        wish = f"[[sim hostile={how}]] a cat"
        for stream in (False, True):
            body = {"model": "gpt-image-2", "prompt": wish, "quality": "low", "stream": stream}
            assert (await http.post(IMAGES, json=body)).status_code == 200
        assert (await hear(http, wish)).status_code == 200
        assert (await hear(http, wish, "gpt-4o-transcribe")).status_code == 200
        body = spoken(wish, model="gpt-4o-mini-tts", stream_format="sse")
        assert (await http.post("/v1/audio/speech", json=body)).status_code == 200
        events = lab.journal.events
        assert [event.status for event in events] == ["settled"] * 5
        for event in events:
            assert 0 < event.charge_nanos < 10_000_000_000_000_000
            assert all(0 <= count <= 10**9 for count in said(event).values())


@pytest.mark.parametrize("fail", ["no_usage", "bad_json", "no_end"])
async def test_answers_without_usage_are_estimated(fail: str) -> None:
    """By what is likely for the size and quality, and marked."""
    async with running(POLICY, prices=PRICES) as lab, client(lab) as http:
        body = {"model": "gpt-image-2", "prompt": f"[[sim fail={fail}]] a cat", "quality": "low", "n": 2}
        assert (await http.post(IMAGES, json=body)).status_code == 200
        (event,) = lab.journal.events
        assert event.usage_source == "estimated"
        assert event.usage.image_output == 544


# -- accounts ----------------------------------------------------------------------------------------------------------


async def test_files_need_a_policy_that_names_them() -> None:
    """Without a model that names the operation nobody has it, whatever its protocol is."""
    async with running(POLICY.replace("[files, batches]", "[batches]")) as lab, client(lab) as http:
        answer = await http.get("/v1/files")
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "unsupported_operation")
        assert (await http.get("/v1/batches?limit=3")).status_code == 200
        assert [event.error for event in lab.journal.events] == ["wrong_operation", ""]
        assert (await http.get("/v1/batches", headers={"authorization": "Bearer tw-no"})).status_code == 401


async def test_requests_of_accounts_count_in_limits_of_requests() -> None:
    """They are requests like others."""
    limit = "limits: [{name: minute, per: [team], rpm: 2}]\n"
    async with running(POLICY + limit, prices=PRICES) as lab, client(lab) as http:
        answers = [(await http.get("/v1/files")).status_code for _ in range(3)]
        assert answers == [200, 200, 429]
        assert [event.charge_tokens for event in lab.journal.events] == [0, 0, 0]


async def test_provider_key_is_used_and_not_the_clients() -> None:
    """What the provider does not have, it says itself; the method, the path and the query are the client's."""
    async with running(POLICY, prices=PRICES) as lab, client(lab) as http:
        answer = await http.delete("/v1/files/file-x")
        assert (answer.status_code, answer.json()["error"]["message"]) == (404, "No such file object: file-x")
        (event,) = lab.journal.events
        assert (event.status, event.error, event.charge_nanos) == ("failed", "provider_status_404", 0)
        assert SECRET.encode() not in answer.content


# -- another model -----------------------------------------------------------------------------------------------------


async def test_another_model_hears_what_the_first_one_could_not() -> None:
    """The form goes to the next provider with its own name of the model, and is reserved and charged as there."""
    policy = POLICY.replace("  hearing: {provider: oai,", "  deaf: {provider: gone, fallback: {to: hearing}}\n"
                            "  hearing: {provider: oai,").replace("models:", "  gone: {protocol: openai, base_url: "
                            '"http://127.0.0.1:9/v1"}\nmodels:')  # fmt: skip
    prices = {**PRICES, "deaf": PRICES["whisper-1"]}
    async with running(policy, prices=prices) as lab, client(lab) as http:
        answer = await hear(http, model="deaf", size=32_000)
        assert answer.status_code == 200
        first, second = lab.journal.events
        assert (first.status, first.charge_nanos, second.status) == ("failed", 0, "settled")
        assert said(second) == {"audio_input": 20, "output": 16}
        assert is_priced_right(second, "hearing")
        assert [entry.model for entry in lab.simulator.ledger.entries] == ["gpt-4o-transcribe"]
