"""Makes changes: policy versions, keys, each with its audit entry. One at a time, over the newest state of the log.

A change is written, acknowledged by all replicas in sync, and read back before it is answered. What a crash leaves
half done (a version without its keys, a change without its audit entry) is completed at the next start.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import msgspec
import structlog

from enforcer.adapters.log import ACK_DEADLINE_S, Goals
from enforcer.adapters.price_list import PriceList
from enforcer.core import keys as virtual_keys
from enforcer.core.audit import missing as missing_entries
from enforcer.core.audit import owner, policy_subject
from enforcer.core.control import ControlState
from enforcer.core.keys import Issued, Wish
from enforcer.core.overrides import missing as missing_overrides
from enforcer.core.policy import MAX_RECORD_BYTES, Candidate, Plan, plan, record
from enforcer.core.price_changes import (
    apply_entries,
    policy_entries,
    policy_reason,
    prices_subject,
    seed_entries,
    stamp_of,
    unaudited,
)
from enforcer.core.resolution import resolve_all
from enforcer.errors import Refusal, field_problem, invalid, missing
from enforcer.listing import Draft, draft, price_record
from schemas.codec import encode_json
from schemas.errors import ConfigError, TransportError
from schemas.keys import VirtualKey
from schemas.topics import AUDIT, KEYS, POLICY, Topic

AUDITED_CHANGES = 200
"""Differences that an audit entry of a policy lists; the versions have all."""

_log = structlog.get_logger("enforcer.control")


class Writer(Protocol):
    """Where changes are written."""

    async def write(self, records: list[tuple[Topic, str, bytes | None]]) -> Goals:
        """Write records in order; return the offsets behind them. TransportError if not acknowledged."""


class Reader(Protocol):
    """The reading of the control topics into the state."""

    async def until(self, goals: Goals) -> None:
        """Return when the state includes everything below the offsets."""

    async def until_end(self) -> None:
        """Return when the state includes everything that is on the topics now."""


class Applied(msgspec.Struct, frozen=True):
    """What an apply, a rollback or a dry run found and did."""

    version: int
    """In force afterwards; for a dry run the one that there would be."""
    applied: bool
    dry_run: bool
    plan: Plan
    sha256: str


class Change(NamedTuple):
    """A change that has been decided on: what is written and audited, and what the caller is told once it is."""

    records: list[tuple[Topic, str, bytes | None]]
    action: str
    subject: str
    detail: Mapping[str, Any]
    answer: Any


class ControlPlane:
    """The one maker of changes."""

    def __init__(
        self, state: ControlState, writer: Writer, reader: Reader, prices: PriceList, clock: Callable[[], int],
        random: Callable[[int], bytes],
    ) -> None:  # fmt: skip
        self._state, self._writer, self._reader = state, writer, reader
        self.prices, self._clock, self._random = prices, clock, random
        self._lock = asyncio.Lock()
        self._half_done = False

    @property
    def state(self) -> ControlState:
        """What the log says, as far as it has been read."""
        return self._state

    async def apply(self, text: str, note: str, actor: str, dry_run: bool, base: int | None) -> Applied | Refusal:
        """Put a document in force, or with `dry_run` say what that would do.

        `base` is the version that the caller knows; if another one is in force, nothing is done (409).
        """
        found = await self._drafted(text)
        if isinstance(found, Refusal):
            return found
        async with self._lock:
            await self._refresh()
            return await self._put(found, "policy.apply", note, actor, dry_run, base)

    async def rollback(self, version: int, note: str, actor: str, base: int | None) -> Applied | Refusal:
        """Put the document of an earlier version in force as a new version."""
        async with self._lock:
            await self._refresh()
            earlier = self._state.versions.get(version)
            if earlier is None:
                return unknown_version(version, self._state)
            found = await self._drafted(earlier.document)
            if isinstance(found, Refusal):
                return found
            return await self._put(found, "policy.rollback", note, actor, False, base, {"to": version})

    async def create_key(self, wish: Wish, actor: str) -> Issued | Refusal:
        """Issue a key."""
        async with self._lock:
            await self._refresh()
            now_ms = self._clock()
            problems = virtual_keys.problems(self._state.policy, wish, now_ms)
            if problems:
                return invalid([field_problem(*problem) for problem in problems])
            issued = None
            while issued is None:
                issued = virtual_keys.issue(wish, self._state.keys, now_ms, self._random(38))
            await self._commit([key_record(issued.key)], actor, "key.create", issued.key.id, owner(issued.key))
            return issued

    async def revoke_key(self, key_id: str, actor: str) -> VirtualKey | Refusal:
        """Revoke a key; one that is revoked already stays as it is."""
        async with self._lock:
            await self._refresh()
            known = self._state.keys.get(key_id)
            if known is None:
                return missing(f"there is no key {key_id!r}", "list them with: tollway keys list")
            if known.revoked_ms is not None:
                return known
            key = virtual_keys.revoked(known, self._clock())
            await self._commit([key_record(key)], actor, "key.revoke", key.id, owner(key))
            return key

    async def change(self, decide: Callable[[ControlState, int, bytes], Any], actor: str) -> Any:
        """Do what `decide` makes of the newest state, unix ms and random bytes: a Change is written, else returned."""
        async with self._lock:
            await self._refresh()
            found = decide(self._state, self._clock(), self._random(16))
            if not isinstance(found, Change):
                return found
            await self._commit(found.records, actor, found.action, found.subject, found.detail)
            return found.answer

    async def recover(self) -> None:
        """Complete what a crash left half done. Doing it again does nothing."""
        async with self._lock:
            await self._read(self._reader.until_end())
            await self._complete()

    async def _complete(self) -> None:
        state = self._state
        if state.current is not None:
            version = state.current
            before = state.before(version.version)
            following = virtual_keys.follow(
                None if before is None else before.policy, state.document(version.version).policy,
                version.applied_ms, state.keys, self._clock(),
            )  # fmt: skip
            if following:
                _log.warning("completing the keys of a version", version=version.version, keys=len(following))
                await self._write([key_record(key) for key in following])
        now_ms = max(self._clock(), state.book.known_ms)
        stamp = stamp_of(state.book, now_ms, "enforcer", "recovered")
        lost = policy_entries(state.policy, state.book, stamp)  # of a version that was never written
        if state.current is not None and state.policy is not None:
            lost += seed_entries(state.current, state.policy, state.book, stamp)  # of one from before the book
        if lost:
            await self._write([price_record(entry) for entry in lost])
        versions = [state.versions[number] for number in sorted(state.versions)]
        lacks = missing_entries(state.audit, versions, state.keys.values())
        lacks += missing_overrides(state.audit.overrides, state.increases.values(), state.freezes.values())
        for recorded_ms, entries in unaudited(state.book, state.audit.has_subject, state.versions).items():
            detail = {"prices": [entry.id for entry in entries[:AUDITED_CHANGES]], "recovered": True}
            lacks.append((entries[0].recorded_by, "prices.record", prices_subject(recorded_ms), detail))
        for actor, action, subject, detail in lacks:
            _log.warning("completing the audit chain", action=action, subject=subject)
            await self._commit([], actor, action, subject, detail)
        self._half_done = False

    async def _drafted(self, text: str) -> Draft | Refusal:
        try:
            return await draft(text, self.prices)
        except ConfigError as error:
            return invalid(error.problems, "the policy document is not valid; every problem is listed")

    async def _put(
        self, drafted: Draft, action: str, note: str, actor: str, dry_run: bool, base: int | None,
        more: Mapping[str, Any] | None = None,
    ) -> Applied | Refusal:  # fmt: skip
        state, now_ms = self._state, self._clock()
        if base is not None and base != state.version:
            return Refusal(
                409, f"version {state.version} is in force, not {base}: somebody applied in between; look at it with "
                "`tollway policy show`, then plan again", "base_version",
            )  # fmt: skip
        before = None if state.current is None else state.document(state.version)
        policy, book = drafted.document.policy, state.book.copy()
        entries = apply_entries(
            policy, drafted.listed, book, stamp_of(book, now_ms, actor, policy_reason(state.version + 1))
        )
        for entry in entries:
            book.append(entry)
        found = Candidate(drafted.text, drafted.document, resolve_all(policy, book, now_ms))
        planned = plan(found, state.current, before, state.keys, now_ms)
        if not isinstance(planned, Plan):
            return invalid(planned, "the policy document cannot be applied; every problem is listed")
        if planned.identical:
            return Applied(state.version, False, dry_run, planned, found.sha256)
        version = record(found, state.version + 1, now_ms, actor, note)
        value = encode_json(version)
        if len(value) > MAX_RECORD_BYTES:
            message = f"the document with its prices is {len(value)} bytes, more than {MAX_RECORD_BYTES} in one record"
            return Refusal(413, f"{message}; list fewer models or keys", "document")
        if dry_run:
            return Applied(version.version, False, True, planned, found.sha256)
        following = virtual_keys.follow(
            None if before is None else before.policy, found.document.policy, now_ms, state.keys, now_ms
        )
        detail = {
            "version": version.version, "sha256": version.sha256, "note": note,
            "changes": [msgspec.to_builtins(change) for change in planned.changes[:AUDITED_CHANGES]],
            "keys_published": planned.keys_published, "keys_revoked": planned.keys_revoked,
            "prices": [entry.id for entry in entries[:AUDITED_CHANGES]], **(more or {}),
        }  # fmt: skip
        # Prices first: what the version's prices are made of is on the log before the version is.
        records = [*map(price_record, entries), (POLICY, version.key, value), *(key_record(key) for key in following)]
        await self._commit(records, actor, action, policy_subject(version.version), detail)
        return Applied(version.version, True, False, planned, found.sha256)

    async def _commit(
        self, records: list[tuple[Topic, str, bytes | None]], actor: str, action: str, subject: str,
        detail: Mapping[str, Any],
    ) -> None:  # fmt: skip
        entry = self._state.audit.next(self._clock(), actor, action, subject, detail)
        await self._write([*records, (AUDIT, f"{entry.number:010d}", encode_json(entry))])
        _log.info("changed", action=action, subject=subject, actor=actor)

    async def _write(self, records: list[tuple[Topic, str, bytes | None]]) -> None:
        try:
            goals = await self._writer.write(records)
            await self._read(self._reader.until(goals))
        except TransportError:
            self._half_done = True
            raise

    async def _refresh(self) -> None:
        await self._read(self._reader.until_end())
        if self._half_done:
            await self._complete()

    async def _read(self, reading: Any) -> None:
        try:
            async with asyncio.timeout(ACK_DEADLINE_S):
                await reading
        except TimeoutError as error:
            raise TransportError(
                f"the broker does not answer: the control topics could not be read within {ACK_DEADLINE_S:g} s"
            ) from error


def key_record(key: VirtualKey) -> tuple[Topic, str, bytes | None]:
    """Return a key as a record."""
    return KEYS, key.id, encode_json(key)


def unknown_version(version: int, state: ControlState) -> Refusal:
    """Return the refusal of a version that does not exist."""
    known = f"there are versions {min(state.versions)} to {state.version}" if state.versions else "there is none yet"
    return missing(f"there is no policy version {version} ({known})", "list them with: tollway policy history")
