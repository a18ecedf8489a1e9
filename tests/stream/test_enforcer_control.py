"""The control plane over a log in memory: order, conflicts, and what is completed after a fault."""

from __future__ import annotations

import itertools

import pytest

from deploy.supervisor.bootstrap import example_policy
from enforcer.adapters.price_list import PriceList
from enforcer.control import Applied, ControlPlane
from enforcer.core.control import ControlState
from enforcer.core.keys import Issued, Wish
from enforcer.errors import Refusal
from schemas.audit import AuditEntry, broken_link
from schemas.codec import decode_json
from schemas.errors import TransportError
from schemas.keys import VirtualKey
from schemas.policy import Model, Provider
from schemas.topics import AUDIT, KEYS, POLICY, PRICES
from tests.stream.enforcer_log import FakeLog
from tests.unit.enforcer.enforcer_parts import DOCUMENT, with_amount

LISTED = DOCUMENT + f"keys:\n  - {{id: ci, hash: 'sha256:{'a' * 64}', org: acme}}\n"
PRICED = len(
    PriceList().versions(Provider(protocol="openai", base_url="simulated"), "gpt-4o-mini", Model(provider="openai"))
)
"""Entries of the one model of the document."""


class Plant:
    """A control plane, its log and its state; `restart` forgets everything but the log."""

    def __init__(self, log: FakeLog | None = None) -> None:
        self.state = ControlState()
        self.log = FakeLog(self.state)
        if log is not None:
            self.log.records = log.records
        ticks = itertools.count(1_000)
        seeds = itertools.count(1)
        self.plane = ControlPlane(
            self.state, self.log, self.log, PriceList(), lambda: next(ticks),
            lambda count: bytes([next(seeds)]) * count,
        )  # fmt: skip

    async def restart(self) -> Plant:
        """Return a new process over the same log, after its recovery."""
        plant = Plant(self.log)
        await plant.plane.recover()
        return plant

    async def apply(self, text: str, base: int | None = None) -> Applied | Refusal:
        """Apply a document."""
        return await self.plane.apply(text, "why", "me", False, base)

    def audit(self) -> list[AuditEntry]:
        """Return the chain as it was written."""
        return [decode_json(AuditEntry, value or b"") for value in self.log.of(AUDIT)]


async def test_the_example_policy_is_applied_and_audited() -> None:
    """Whatever the example shows, ladders with numbers for keys too, it can be planned, applied and chained."""
    plant = Plant()
    for change in ("", "\n# changed\n"):
        assert isinstance(await plant.apply(example_policy() + change), Applied)
    assert plant.audit()
    assert broken_link(plant.audit()) is None


async def test_a_version_comes_after_its_prices_and_before_its_keys_and_its_audit_entry() -> None:
    """Records are in the order in which a reader needs them."""
    plant = Plant()
    await plant.apply(LISTED)
    assert [topic for topic, _, _ in plant.log.records] == [*[PRICES] * PRICED, POLICY, KEYS, AUDIT]


async def test_a_dry_run_writes_nothing() -> None:
    """The version it names is the one that there would be."""
    plant = Plant()
    made = await plant.plane.apply(DOCUMENT, "", "me", True, None)
    assert isinstance(made, Applied)
    assert (made.version, made.applied, plant.log.records) == (1, False, [])


async def test_somebody_elses_apply_in_between_is_a_conflict() -> None:
    """With a base version, what was planned on an older one is refused by name."""
    plant = Plant()
    await plant.apply(DOCUMENT)
    await plant.apply(with_amount("9 USD"), base=1)
    refused = await plant.apply(with_amount("8 USD"), base=1)
    assert isinstance(refused, Refusal)
    assert (refused.status, refused.field) == (409, "base_version")
    assert "version 2 is in force" in refused.message


async def test_a_change_made_elsewhere_on_the_log_is_seen_before_the_next() -> None:
    """The newest state of the log is read before each change, so that no version is used twice."""
    plant = Plant()
    await plant.apply(DOCUMENT)
    other = Plant(plant.log)
    await other.apply(with_amount("9 USD"))
    made = await plant.apply(with_amount("8 USD"))
    assert isinstance(made, Applied)
    assert made.version == 3


@pytest.mark.parametrize("written", [PRICED + 1, PRICED + 2])
async def test_what_a_crash_left_half_done_is_completed_at_the_next_start(written: int) -> None:
    """After the version, or after its keys: the rest follows, once, in an unbroken chain."""
    plant = Plant()
    plant.log.lose = written
    with pytest.raises(TransportError):
        await plant.apply(LISTED)
    after = await (await plant.restart()).restart()
    assert after.state.version == 1
    assert after.state.keys["ci"].source == "policy"
    assert [entry.subject for entry in after.audit()] == ["policy/1"]
    assert broken_link(after.audit()) is None
    assert len(after.log.of(KEYS)) == 1


async def test_prices_of_a_version_that_was_never_written_do_not_count() -> None:
    """The list's stay and are audited; what the document itself said is taken back, and applied again it counts."""
    plant = Plant()
    await plant.apply(DOCUMENT)
    text = DOCUMENT.replace("{provider: openai}", "{provider: openai, price: {input: 7, output: 7}}")
    plant.log.lose = 1
    with pytest.raises(TransportError):
        await plant.apply(text)
    after = await (await plant.restart()).restart()
    assert after.state.version == 1
    assert [entry.action for entry in after.audit()] == ["policy.apply", "prices.record", "prices.record"]
    price = after.state.book.price_at("", "openai", "gpt-4o-mini", 10**15, name="gpt-4o-mini")
    assert price is not None
    assert price.source == "genai-prices"
    assert isinstance(await after.apply(text), Applied)
    assert after.state.current is not None
    assert after.state.current.prices["gpt-4o-mini"].source == "policy"
    assert len(after.audit()) == 4


async def test_applying_again_records_no_price_twice() -> None:
    """The book grows by what is new: here a price that the document begins to say, and its end."""
    plant = Plant()
    own = DOCUMENT.replace("{provider: openai}", "{provider: openai, price: {input: 7, output: 7}}")
    seen = []
    for text in (DOCUMENT, DOCUMENT + "# again\n", own, own + "# again\n", DOCUMENT):
        await plant.apply(text)
        assert plant.state.current is not None
        seen.append((len(plant.state.book), plant.state.current.prices["gpt-4o-mini"].source))
    sources = ["genai-prices", "genai-prices", "policy", "policy", "genai-prices"]
    assert seen == list(zip([PRICED, PRICED, PRICED + 1, PRICED + 1, PRICED + 2], sources, strict=True))


async def test_what_a_fault_left_half_done_is_completed_before_the_next_change() -> None:
    """Without a restart, too: the next change finds the log whole."""
    plant = Plant()
    plant.log.lose = PRICED + 1
    with pytest.raises(TransportError):
        await plant.apply(LISTED)
    issued = await plant.plane.create_key(Wish(org="acme"), "me")
    assert isinstance(issued, Issued)
    assert [entry.subject for entry in plant.audit()] == ["policy/1", issued.key.id]
    assert "ci" in plant.state.keys


async def test_a_revocation_that_was_not_acknowledged_can_be_repeated() -> None:
    """The first try is a fault to the caller, the second one does it."""
    plant = Plant()
    await plant.apply(DOCUMENT)
    issued = await plant.plane.create_key(Wish(org="acme"), "me")
    assert isinstance(issued, Issued)
    plant.log.lose = 0
    with pytest.raises(TransportError):
        await plant.plane.revoke_key(issued.key.id, "me")
    revoked = await plant.plane.revoke_key(issued.key.id, "me")
    assert isinstance(revoked, VirtualKey)
    assert revoked.revoked_ms is not None
    assert plant.state.keys[issued.key.id].revoked_ms == revoked.revoked_ms


async def test_a_rollback_is_a_new_version_with_the_old_document() -> None:
    """History only grows; an unknown version is named with those that exist."""
    plant = Plant()
    await plant.apply(DOCUMENT)
    await plant.apply(with_amount("9 USD"))
    made = await plant.plane.rollback(1, "oops", "me", None)
    assert isinstance(made, Applied)
    assert (made.version, plant.state.versions[3].document) == (3, DOCUMENT)
    missing = await plant.plane.rollback(9, "", "me", None)
    assert isinstance(missing, Refusal)
    assert "1 to 3" in missing.message


async def test_a_document_too_large_for_a_record_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is written, with the sizes."""
    monkeypatch.setattr("enforcer.control.MAX_RECORD_BYTES", 500)
    plant = Plant()
    refused = await plant.apply(DOCUMENT)
    assert isinstance(refused, Refusal)
    assert (refused.status, plant.log.records) == (413, [])
    assert "more than 500" in refused.message
