"""Records prices and publishes them: imports, files, single prices, and what becomes valid by the clock alone.

Whatever changes the prices of the version in force publishes that version again with a higher `prices_revision`, in
the same write as the entries that are the cause. Valid times that pass have no cause on the log: `keep` watches for
them. Both go through the one maker of changes, so that each has its audit entry.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
import structlog

from enforcer.control import AUDITED_CHANGES, Change, ControlPlane
from enforcer.core.book import Book
from enforcer.core.control import ControlState
from enforcer.core.policy import MAX_RECORD_BYTES, changed_prices
from enforcer.core.price_changes import (
    Listed,
    file_entries,
    file_problems,
    import_entries,
    prices_subject,
    stamp_of,
)
from enforcer.core.price_report import PriceChange, report
from enforcer.core.resolution import resolve_all
from enforcer.errors import Refusal, field_problem, invalid
from enforcer.listing import listed, price_record
from schemas.codec import encode_json
from schemas.errors import ConfigError, TransportError
from schemas.policy import PolicyRecord
from schemas.price_file import PriceFile, load_prices
from schemas.prices import PriceEntry
from schemas.topics import POLICY, Topic

EVERY_S = 0.5
"""Moments at which prices change are looked for this often."""
RECORDED, PUBLISHED = "prices.record", "prices.publish"

_log = structlog.get_logger("enforcer.prices")


class Recorded(msgspec.Struct, frozen=True):
    """What was recorded, or with `dry_run` would be."""

    entries: int
    """How many entries the book gets."""
    changes: list[PriceChange]
    base: int
    """How many entries the book had; to be named when what was shown is recorded."""
    recorded: bool
    dry_run: bool
    repriced: int
    """How many prices of models are others from now on."""
    source: str
    """The price list with its version, or `file`."""
    sha256: str
    """Of the data."""
    no_price: list[str] = []
    """Models of the policy that the list has no price for."""


class PricePlane:
    """The one who records prices."""

    def __init__(self, plane: ControlPlane, clock: Callable[[], int], every_s: float = EVERY_S) -> None:
        self._plane, self._clock, self._every_s = plane, clock, every_s
        self._seen: tuple[int, int, int] = (-1, -1, -1)
        self._next_ms: int | None = None

    async def record(
        self, text: str | None, actor: str, reason: str, dry_run: bool, base: int | None
    ) -> Recorded | Refusal:
        """Record what a price file says, or with None what the bundled list says of the models in force.

        `base` is the number of entries that the caller knows; if the book has others, nothing is done (409).
        """
        try:
            file = None if text is None else load_prices(text)
        except ConfigError as error:
            return invalid(error.problems, "the prices are not valid; every problem is listed")
        said: Listed = {} if file is not None else await self._bundled()
        prices = self._plane.prices
        digest = await asyncio.to_thread(lambda: prices.sha256) if text is None else _digest(text)
        source = "file" if text is not None else prices.version

        def decide(state: ControlState, now_ms: int, _: bytes) -> Change | Refusal | Recorded:
            refusal = _refusal(state, file, base)
            if refusal is not None:
                return refusal
            stamp = stamp_of(state.book, now_ms, actor, reason, digest)
            book = state.book
            entries = import_entries(said, book, stamp) if file is None else file_entries(file, book, stamp)
            lacks = [model for (_, model), versions in said.items() if not versions]
            return _decided(state, entries, stamp.recorded_ms, dry_run, Recorded(
                len(entries), [], len(state.book), False, dry_run, 0, source, digest, lacks
            ))  # fmt: skip

        answer: Recorded | Refusal = await self._plane.change(decide, actor)
        return answer

    async def keep(self) -> None:
        """Publish prices again whenever a valid time passes. Returns never; raises what is not the broker's fault."""
        while True:
            try:
                await self.look()
            except TransportError as error:
                _log.warning("prices not published, will be tried again", error=str(error))
            await asyncio.sleep(self._every_s)

    async def look(self) -> bool:
        """Publish the prices of the version in force if they are others by now; tell whether they were."""
        state, now_ms = self._plane.state, self._clock()
        current = state.current
        if current is None:
            return False
        seen = (current.version, current.prices_revision, len(state.book))
        if seen == self._seen and (self._next_ms is None or now_ms < self._next_ms):
            return False
        published: bool = await self._plane.change(_publish, "enforcer")
        current = state.current or current
        self._seen = (current.version, current.prices_revision, len(state.book))
        self._next_ms = state.book.next_change_ms(now_ms)
        return published

    async def _bundled(self) -> Listed:
        policy = self._plane.state.policy
        return {} if policy is None else await listed(policy, self._plane.prices)


def _refusal(state: ControlState, file: PriceFile | None, base: int | None) -> Refusal | None:
    if base is not None and base != len(state.book):
        return Refusal(
            409, f"the book has {len(state.book)} entries, not {base}: somebody recorded prices in between; look at "
            "the differences again", "base",
        )  # fmt: skip
    if state.policy is None:
        return Refusal(409, "no policy is in force; apply one first: tollway policy apply FILE", "prices")
    problems = [] if file is None else file_problems(file, state.policy)
    return invalid([field_problem(*problem) for problem in problems]) if problems else None


def _decided(
    state: ControlState, entries: list[PriceEntry], recorded_ms: int, dry_run: bool, answer: Recorded
) -> Change | Refusal | Recorded:
    current, policy = state.current, state.policy
    assert current is not None
    assert policy is not None
    book, now_ms = state.book.copy(), recorded_ms
    for entry in entries:
        book.append(entry)
    renewed, repriced = _renewed(current, state, book, now_ms)
    refusal = _too_large(renewed)
    changes = report(entries, state.book, book, policy, now_ms)
    answer = msgspec.structs.replace(answer, changes=changes, repriced=repriced)
    if refusal is not None:
        return refusal
    if dry_run or not entries:
        return answer
    detail = {
        "prices": [entry.id for entry in entries[:AUDITED_CHANGES]], "entries": len(entries),
        "source": answer.source, "sha256": answer.sha256, "reason": entries[0].reason,
        "changes": [_line(change) for change in changes[:AUDITED_CHANGES]],
        "policy": current.version, "prices_revision": current.prices_revision + bool(repriced),
    }  # fmt: skip
    records: list[tuple[Topic, str, bytes | None]] = [price_record(entry) for entry in entries]
    if repriced:
        records.append((POLICY, renewed.key, encode_json(renewed)))
    done = msgspec.structs.replace(answer, recorded=True)
    return Change(records, RECORDED, prices_subject(entries[0].recorded_ms), detail, done)


def _publish(state: ControlState, now_ms: int, _: bytes) -> Change | bool:
    current = state.current
    if current is None:
        return False
    renewed, repriced = _renewed(current, state, state.book, now_ms)
    if not repriced:
        return False
    if _too_large(renewed) is not None:
        _log.error("prices cannot be published: the record would be too large", version=current.version)
        return False
    changed = changed_prices(current, resolve_all(_policy(state), state.book, now_ms))
    detail = {
        "policy": current.version, "prices_revision": renewed.prices_revision,
        "models": [change.path for change in changed[:AUDITED_CHANGES]], "why": "a price began or ended",
    }  # fmt: skip
    subject = f"prices/policy/{current.version}/{renewed.prices_revision}"
    return Change([(POLICY, renewed.key, encode_json(renewed))], PUBLISHED, subject, detail, True)


def _renewed(current: PolicyRecord, state: ControlState, book: Book, now_ms: int) -> tuple[PolicyRecord, int]:
    """Return the version in force with the prices of `book`, and how many of them are others."""
    prices = resolve_all(_policy(state), book, now_ms)
    repriced = len(changed_prices(current, prices))
    own = {org: dict(found) for org, found in prices.orgs.items()}
    return msgspec.structs.replace(
        current, prices=prices.resolved, org_prices=own, prices_revision=current.prices_revision + 1
    ), repriced


def _policy(state: ControlState) -> Any:
    return state.policy


def _too_large(record: PolicyRecord) -> Refusal | None:
    size = len(encode_json(record))
    if size <= MAX_RECORD_BYTES:
        return None
    message = f"the document with all prices would be {size} bytes, more than {MAX_RECORD_BYTES} in one record"
    return Refusal(413, f"{message}; give prices of their own to fewer organisations or models", "prices")


def _line(change: PriceChange) -> str:
    org = f"{change.org}: " if change.org else ""
    return f"{org}{change.provider}/{change.model}: {', '.join(change.differences) or 'as before'}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
