"""Increases and freezes over a log in memory: written, audited, ended, completed after a fault."""

from __future__ import annotations

import pytest

from enforcer.core.overrides import Wish
from enforcer.errors import Refusal
from enforcer.overrides import OverridePlane
from schemas.audit import broken_link
from schemas.codec import decode_json
from schemas.errors import TransportError
from schemas.overrides import Freeze, Increase
from schemas.topics import AUDIT, POLICY
from tests.stream.test_enforcer_control import Plant
from tests.unit.enforcer.enforcer_parts import DOCUMENT


async def plant_with_policy() -> tuple[Plant, OverridePlane]:
    """Return a control plane with a policy in force, and its maker of overrides."""
    plant = Plant()
    await plant.apply(DOCUMENT)
    return plant, OverridePlane(plant.plane)


def actions(plant: Plant) -> list[tuple[str, str, str]]:
    """Return actor, action and subject of the chain."""
    return [(entry.actor, entry.action, entry.subject) for entry in plant.audit()]


def expiring(plant: Plant) -> Wish:
    """Return a wish that ends a minute after the plant's clock."""
    return Wish("team-month", "org=acme,team=search", "launch", "ann", "bob", 61_000, percent=20)


async def test_an_increase_is_written_audited_and_ended_by_a_tombstone() -> None:
    """Its revision is the number of its audit entry; what is granted is in the entry."""
    plant, overrides = await plant_with_policy()
    made = await overrides.grant(expiring(plant), "carol")
    assert isinstance(made, Increase)
    assert decode_json(Increase, plant.log.of(POLICY)[-1] or b"") == made == plant.state.increases[made.id]
    assert made.revision == plant.audit()[-1].number == 2
    assert plant.audit()[-1].detail["size"] == "+20%"
    ended = await overrides.revoke(made.id, "over", "dave")
    assert ended == made
    assert plant.log.records[-2][:2] == (POLICY, made.key)
    assert plant.log.of(POLICY)[-1] is None
    assert plant.state.increases == {}
    assert actions(plant)[1:] == [("carol", "increase.grant", made.key), ("dave", "increase.revoke", made.key)]
    assert plant.audit()[-1].detail["why"] == "over"
    again = await overrides.revoke(made.id, "", "dave")
    assert isinstance(again, Refusal)
    assert again.status == 404
    assert broken_link(plant.audit()) is None


async def test_an_increase_that_nobody_else_approves_writes_nothing() -> None:
    """Every problem is told."""
    plant, overrides = await plant_with_policy()
    written = len(plant.log.records)
    wish = Wish("gone", "org=acme", "", "ann", "ann", 0)
    refused = await overrides.grant(wish, "ann")
    assert isinstance(refused, Refusal)
    assert (refused.status, len(refused.problems)) == (422, 4)
    assert len(plant.log.records) == written


async def test_a_scope_is_frozen_once_and_released_once() -> None:
    """Freezing it again changes nothing; it can be frozen anew later."""
    plant, overrides = await plant_with_policy()
    made = await overrides.freeze("team=search,org=acme", "a leak", "bob")
    assert isinstance(made, Freeze)
    assert await overrides.freeze("org=acme,team=search", "another", "eve") == made
    assert await overrides.release("team=search,org=acme", "done", "bob") == made
    for scope, status in (("org=acme,team=search", 404), ("nonsense", 422)):
        refused = await overrides.release(scope, "", "bob")
        assert isinstance(refused, Refusal)
        assert refused.status == status
    await overrides.freeze("org=acme,team=search", "again", "bob")
    assert [action for _, action, _ in actions(plant)[1:]] == ["scope.freeze", "scope.release", "scope.freeze"]
    assert list(plant.state.freezes) == ["org=acme,team=search"]
    misspelt = await overrides.freeze("org=acme,team=serach", "a leak", "bob")
    assert isinstance(misspelt, Refusal)


async def test_what_a_crash_left_out_of_the_chain_is_added_at_the_next_start() -> None:
    """After the record and before its audit entry, for a change and for its end."""
    plant, overrides = await plant_with_policy()
    plant.log.lose = 1
    with pytest.raises(TransportError):
        await overrides.freeze("org=acme", "a leak", "bob")
    plant = await (await plant.restart()).restart()
    assert actions(plant)[1:] == [("bob", "scope.freeze", "freeze/org=acme")]
    plant.log.lose = 1
    with pytest.raises(TransportError):
        await OverridePlane(plant.plane).release("org=acme", "", "bob")
    plant = await (await plant.restart()).restart()
    assert actions(plant)[2:] == [("unknown", "scope.release", "freeze/org=acme")]
    assert plant.audit()[-1].detail["recovered"] is True
    assert broken_link(plant.audit()) is None
    assert [topic for topic, _, _ in plant.log.records].count(AUDIT) == 3
