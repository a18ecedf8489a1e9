"""Prices through a real broker and the real enforcer: recorded, published, kept over a restart; the command line."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from deploy import topics
from schemas.codec import decode_json
from schemas.connection import KafkaConnection
from schemas.policy import PolicyRecord
from schemas.prices import PriceEntry
from schemas.topics import POLICY, PRICES
from tests.fixtures.broker import Broker
from tests.integration.enforcer_lab import TOKEN, Enforcer, records, running, until
from tests.unit.deploy.test_cli_commands import Ran, run

FILE = """
source: invoices of November
prices:
  - {provider: openai, model: in-house, kind: self-hosted, price: {input: 0.5, output: 0.5}, reason: measured}
  - {provider: openai, model: gpt-4o-mini, kind: contract, org: acme, discounts: [{percent: 10%}]}
"""


@pytest_asyncio.fixture
async def connection(broker: Broker, topic_prefix: str) -> KafkaConnection:
    """Return a deployment of its own with all its topics."""
    connection = KafkaConnection(bootstrap=broker.bootstrap, topic_prefix=topic_prefix, partitions=1)
    await topics.create(connection)
    return connection


async def _tollway(enforcer: Enforcer, *arguments: str) -> Ran:
    url = f"http://127.0.0.1:{enforcer.port}"
    return await asyncio.to_thread(run, "prices", *arguments, "--api", url, "--token", TOKEN)


async def _told(enforcer: Enforcer, *arguments: str) -> Any:
    found = await _tollway(enforcer, *arguments, "--json")
    assert found.code == 0, found.err
    return json.loads(found.out)


@pytest.mark.slow
async def test_prices_from_the_command_line_to_the_replicas(connection: KafkaConnection, tmp_path: Path) -> None:
    """Import with a yes, set, what begins by the clock, history with both times; all of it there after a restart."""
    file = tmp_path / "prices.yaml"
    file.write_text(FILE)
    async with running(connection) as enforcer:
        await enforcer.apply()
        assert (await _told(enforcer, "diff"))["changes"] == []
        shown = await _told(enforcer, "diff", str(file))
        assert [change["model"] for change in shown["changes"]] == ["in-house", "gpt-4o-mini"]
        assert shown["changes"][0]["example"] == "1,000 input + 500 output tokens = 0.00075 USD"
        unasked = await _told(enforcer, "import", str(file))
        assert (unasked["entries"], unasked["recorded"]) == (2, False)
        assert (await _told(enforcer, "import", str(file), "--yes"))["recorded"]
        assert (await _told(enforcer, "import", str(file), "--yes"))["entries"] == 0

        soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
        made = await _told(
            enforcer, "set", "openai", "gpt-4o-mini", "--input", "3", "--output", "9", "--from", soon, "--reason",
            "price page", "--yes",
        )  # fmt: skip
        assert (made["repriced"], made["changes"][0]["kind"]) == (0, "override")

        async def begun() -> bool:
            found = await _told(enforcer, "list")
            prices = {(model["name"], model["org"]): model["price"] for model in found["models"]}
            assert prices["in-house", ""]["tiers"][0]["input"] == "0.5"
            assert prices["gpt-4o-mini", "acme"]["tiers"][0]["input"] == "0.135"
            assert prices["gpt-4o-mini", "acme"]["listed"]["tiers"][0]["input"] == "0.15"
            return bool(prices["gpt-4o-mini", ""]["tiers"][0]["input"] == "3")

        await until(begun, "the price that begins later is published")

        large = await _tollway(enforcer, "import", str(_dearer(tmp_path)))
        assert large.code == 2
        assert "in-house would change by more" in large.err
        refused = await _tollway(enforcer, "set", "openai", "in-house", "--input", "1 EUR", "--output", "1",
                                 "--reason", "x", "--yes")  # fmt: skip
        assert refused.code == 2
        assert "'1 EUR' is in EUR: amounts are in USD only" in refused.err

    versions = [decode_json(PolicyRecord, record.value) for record in await records(connection, POLICY)]
    assert [(record.version, record.prices_revision) for record in versions] == [(1, 0), (1, 1), (1, 2)]
    assert versions[-1].org_prices["acme"]["gpt-4o-mini"].source == "contract"
    keys = [record.key for record in await records(connection, PRICES)]
    assert len(keys) == len(set(keys))

    async with running(connection) as enforcer:
        history = await _told(enforcer, "history", "gpt-4o-mini")
        assert {"list", "contract", "override"} == {entry["kind"] for entry in history}
        recorded = [entry["recorded_ms"] for entry in history]
        assert recorded == sorted(recorded)
        table = await _tollway(enforcer, "history", "gpt-4o-mini", "--org", "acme")
        assert "-10%" in table.out
        audit = (await enforcer.get("/v1/audit"))["entries"]
        assert [entry["action"] for entry in audit] == [
            "policy.apply", "prices.record", "prices.record", "prices.publish",
        ]  # fmt: skip
        lines = (await enforcer.client.get("/v1/prices/book")).content.splitlines()
        assert [decode_json(PriceEntry, line).id.encode() for line in lines] == keys
        entry = history[-1]
        before = {"provider": "openai", "model": "gpt-4o-mini", "at_ms": str(entry["valid_from_ms"] + 1)}
        now = (await enforcer.client.get("/v1/prices/at", params=before)).json()
        known = before | {"known_at_ms": str(entry["recorded_ms"] - 1)}
        then = (await enforcer.client.get("/v1/prices/at", params=known)).json()
        assert (now["price"]["tiers"][0]["input"], then["price"]["tiers"][0]["input"]) == ("3", "0.15")
        wrong = await enforcer.client.get("/v1/prices/at", params=before | {"at_ms": "now"})
        assert wrong.status_code == 422


def _dearer(directory: Path) -> Path:
    file = directory / "dearer.yaml"
    file.write_text(FILE.replace("0.5, output: 0.5", "0.9, output: 0.9"))
    return file


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("set", "p", "m", "--reason", "x"), "give rates"),
        (("set", "p", "m", "--reason", "x", "--input", "1", "--percent", "5%"), "give rates"),
        (("set", "p", "m", "--reason", "x", "--withdraw", "--of", "output"), "--of says what --percent is of"),
        (("set", "p", "m", "--reason", "x", "--gpu-hour", "2 USD"), "--tokens-per-hour"),
        (("set", "p", "m", "--reason", "x", "--gpu-hour", "2 EUR", "--tokens-per-hour", "5"), "is in EUR"),
        (("set", "p", "m", "--reason", "x", "--unit", "images"), "write NAME=PRICE"),
        (("set", "p", "m", "--reason", "x", "--withdraw", "--from", "soon"), "is no moment"),
        (("import", "--most", "many"), "is no percentage"),
    ],
)
def test_what_cannot_be_set_is_refused_before_anything_is_asked(arguments: tuple[str, ...], named: str) -> None:
    """Bad input is named with what to write; the service at this address does not even exist."""
    found = run("prices", *arguments, "--api", "http://127.0.0.1:9", "--token", "t")
    assert found.code == 2
    assert named in found.err
