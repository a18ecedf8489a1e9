"""What of batches is charged: a fold of what replicas saw of them, in the order of the log. Pure.

Theory
------
The state is what the steps say that were written, and nothing else. A sighting either changes nothing, which needs no
memory, or it makes a step: the batch as it is behind it, the lines that it charges and the records that charge them. A
step counts from when it is written, its records included, so a sighting that is read again finds its lines charged.

* A batch is charged as a whole, if its provider told the sum and none of its lines was charged before; or by its lines.
  Whatever is first stands: the other is ignored for ever.
* It belongs to whoever created it. One that nobody was seen creating belongs to whoever was seen first with it.
* One that nobody was seen creating, and that was over for long when it was first seen, is not charged: whoever lists an
  account for the first time must not be charged for all that it did before.
* Lines of a file belong to the batch that names the file. A file that no known batch names is none of a batch.

Sums of steps are bounded, because a step is one record: a sighting with more lines makes several steps, and is dealt
with behind the last.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from typing import NamedTuple

import msgspec

from enforcer.core.batch_events import BEFORE_SEEN_MS, Usage, Writer, is_summable, of_line, of_total
from enforcer.core.batch_run import Cutter, is_over
from enforcer.core.batch_terms import Terms
from schemas.batches import BatchRun, BatchSeen, Book, LinesSeen, Sighting, Step
from schemas.codec import decode_attribution, encode_event
from schemas.errors import DecodeError
from schemas.ids import ID_BYTES, shard_of
from schemas.usage import UsageEvent

AS_TOTAL, BY_LINES = "total", "lines"
"""How a batch is charged: `Book.charged`."""
MAX_STEP_BYTES = 384 * 1024
"""Of the events of a step."""
MAX_SETS = 16
"""Batches whose charged lines are held ready to be looked up."""

Name = tuple[str, str]
"""(provider, batch), or (provider, file)."""


class Outcome(enum.StrEnum):
    """What came of a sighting."""

    CHARGED = "charged"
    NOTED = "noted"
    """Nothing was charged, but more is known of the batch."""
    KNOWN = "known"
    """It says nothing new, or nothing that counts any more."""
    BEFORE = "before"
    """The batch was over before anything passed through us."""
    NO_BATCH = "no_batch"
    """The file is none of a known batch."""
    MALFORMED = "malformed"
    """It does not say whom it belongs to."""


class Folded(NamedTuple):
    """The outcome of a sighting, and the step that has to be written for it."""

    outcome: Outcome
    step: Step | None = None


class Charged:
    """What is charged, as the steps say."""

    def __init__(self) -> None:
        self.position = 0
        """Sightings below this offset are dealt with."""
        self.run = BatchRun()
        self.books: dict[Name, Book] = {}
        self.pending: dict[str, Step] = {}
        """By key: steps that were written and whose records may not be on the log."""
        self._files: dict[Name, Name] = {}
        self._lines: dict[Name, list[bytes]] = {}
        """By batch: ids of the lines that are charged, as the steps have them: 16 bytes each."""
        self._sets: dict[Name, set[bytes]] = {}
        """Of some batches: the same to look ids up in."""

    def take(self, step: Step) -> None:
        """Take in a step as it was written, or written again without its records."""
        key = key_of(step)
        if step.records:
            self.pending[key] = step
        elif self.pending.pop(key, None) is not None:
            return  # the rest of it is taken in
        self.position, self.run = step.position, step.run
        # What was decoded is a view of all that it was decoded from.
        book = msgspec.structs.replace(step.book, attribution=step.book.attribution.copy())
        name = (book.provider, book.batch_id)
        self.books[name] = book
        for file_id in book.file_ids:
            self._files.setdefault((book.provider, file_id), name)
        if step.line_ids:
            self._lines.setdefault(name, []).append(step.line_ids)
            if name in self._sets:
                self._sets[name].update(_split(step.line_ids))

    def passed(self, position: int) -> None:
        """Note that the sightings below an offset are dealt with, the last of them without a step."""
        self.position = position

    def batch_of(self, seen: LinesSeen) -> Name | None:
        """Return the batch whose lines these are; None if that is not known."""
        if seen.batch_id:
            return seen.provider, seen.batch_id
        return self._files.get((seen.provider, seen.file_id))

    def lines(self, name: Name) -> set[bytes]:
        """Return the ids of the lines of a batch that are charged; not to be changed."""
        found = self._sets.pop(name, None)
        if found is None:
            found = {line for ids in self._lines.get(name, ()) for line in _split(ids)}
            while len(self._sets) >= MAX_SETS:
                del self._sets[next(iter(self._sets))]
        self._sets[name] = found
        return found


def key_of(step: Step) -> str:
    """Return the key of a step: the same for both of its versions, and no other step's.

    Steps of one position are told apart by the run: each but one of them has records.
    """
    return f"step/{step.position}/{step.run.epoch}/{sum(step.run.seqs.values())}"


def concluded(step: Step) -> Step:
    """Return a step as it is written once its records are on the log."""
    return msgspec.structs.replace(step, records=[])


def fold(state: Charged, sighting: Sighting, offset: int, terms: Terms, now_ms: int) -> Folded:
    """Return what follows from the sighting at `offset`. Until its step has position `offset + 1`, fold it again."""
    try:
        decode_attribution(sighting.attribution)
    except DecodeError:
        return Folded(Outcome.MALFORMED)
    if isinstance(sighting, LinesSeen):
        return _lines_seen(state, sighting, offset, terms, now_ms)
    return _batch_seen(state, sighting, offset, terms, now_ms)


def close(state: Charged, policy_version: int, now_ms: int) -> Step | None:
    """Return the step that ends a run whose day is over; None while it is not."""
    if not is_over(state.run, now_ms) or not state.books:
        return None
    cutter = Cutter(state.run, now_ms, policy_version)
    records = list(cutter.renew())
    return Step(state.position, next(reversed(state.books.values())), b"", cutter.run, records)


def _batch_seen(state: Charged, seen: BatchSeen, offset: int, terms: Terms, now_ms: int) -> Folded:
    before = state.books.get((seen.provider, seen.batch_id))
    book = _known(seen) if before is None else _told(before, seen)
    total = seen.total if seen.is_over and not book.charged else None
    has_used = total is not None and (total.total or seen.requests)
    is_due = total is not None and has_used and not _is_from_before(book)
    if total is not None and is_due and is_summable(terms, book, seen.model or book.model):
        return _charge(state, book, AS_TOTAL, [(b"", of_total(book, seen, total))], offset, terms, now_ms)
    if book == before:
        return Folded(Outcome.KNOWN)
    return Folded(Outcome.NOTED, Step(offset + 1, book, b"", state.run, []))


def _lines_seen(state: Charged, seen: LinesSeen, offset: int, terms: Terms, now_ms: int) -> Folded:
    name = state.batch_of(seen)
    if name is None:
        return Folded(Outcome.NO_BATCH)
    book = state.books.get(name) or Book(seen.provider, name[1], seen.attribution, False, seen.seen_ms)
    if book.charged == AS_TOTAL:
        return Folded(Outcome.KNOWN)
    if not book.charged and _is_from_before(book):
        return Folded(Outcome.BEFORE)
    charged = state.lines(name)
    lines = {line.id: line for line in seen.lines if len(line.id) == ID_BYTES and line.id not in charged}
    if not lines:
        return Folded(Outcome.KNOWN)
    used = [(line.id, of_line(book, line, seen.seen_ms)) for line in lines.values()]
    return _charge(state, book, BY_LINES, used, offset, terms, now_ms)


def _charge(
    state: Charged, book: Book, how: str, used: Iterable[tuple[bytes, Usage]], offset: int, terms: Terms, now_ms: int
) -> Folded:
    """Return the step that charges as much of `used` as fits."""
    writer = Writer(book, terms, now_ms)
    ids, events, size, position = bytearray(), list[UsageEvent](), 0, offset + 1
    for line, usage in used:
        event = writer.event(usage)
        size += len(encode_event(event))
        if events and size > MAX_STEP_BYTES:
            position = offset
            break
        ids += line
        events.append(event)
    cutter = Cutter(state.run, now_ms, terms.version)
    records = [*cutter.renew(), *cutter.cut(shard_of(writer.org, terms.partitions), events)]
    return Folded(Outcome.CHARGED, Step(position, _with(book, how, events), bytes(ids), cutter.run, records))


def _is_from_before(book: Book) -> bool:
    """Tell whether a batch of unknown origin was over long before it was first seen."""
    return not book.is_owned and 0 < book.ended_ms < book.first_seen_ms - BEFORE_SEEN_MS


def _known(seen: BatchSeen) -> Book:
    return Book(
        seen.provider, seen.batch_id, seen.attribution, seen.is_created, seen.seen_ms, seen.operation, seen.model,
        seen.is_over, seen.ended_ms, seen.file_ids, total_requests=seen.requests,
    )  # fmt: skip


def _told(book: Book, seen: BatchSeen) -> Book:
    """Return what is known of a batch, and what is told of it now; what was known stays."""
    is_creator = seen.is_created and not book.is_owned
    return msgspec.structs.replace(
        book,
        attribution=seen.attribution if is_creator else book.attribution,
        is_owned=book.is_owned or seen.is_created,
        operation=book.operation or seen.operation,
        model=book.model or seen.model,
        is_over=book.is_over or seen.is_over,
        ended_ms=book.ended_ms or seen.ended_ms,
        file_ids=tuple(dict.fromkeys((*book.file_ids, *seen.file_ids))),
        total_requests=max(book.total_requests, seen.requests),
    )


def _with(book: Book, how: str, events: list[UsageEvent]) -> Book:
    """Return a batch of which `events` are charged, too."""
    counts = [1 if event.detail is None else event.detail.stands_for for event in events]
    unpriced = sum(count for count, event in zip(counts, events, strict=True) if event.cost_nanos is None)
    return msgspec.structs.replace(
        book,
        charged=how,
        requests=book.requests + sum(counts),
        tokens=book.tokens + sum(event.charge_tokens for event in events),
        cost_nanos=book.cost_nanos + sum(event.cost_nanos or 0 for event in events),
        unpriced=book.unpriced + unpriced,
    )


def _split(ids: bytes) -> Iterable[bytes]:
    return (ids[at : at + ID_BYTES] for at in range(0, len(ids), ID_BYTES))
