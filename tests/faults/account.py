"""What a schedule amounts to: which requests were lost or counted twice, and which were booked wrongly. Pure.

Three books of the same requests: what clients hold (receipts), what the provider has on its medium (served), and the
history's rows (events). A receipt with an id names its event. A request without an answer has the one event under its
key that no receipt names; so every key has at most one such request, which is what clients see to.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tests.faults.clients import Receipt
from tests.faults.scenario import MODEL, nanos_of
from tests.faults.upstream import Served

FIELDS = ("events", "requests", "input_tokens", "output_tokens", "cost_nanos", "unpriced", "charge_nanos")
"""The integer sums by which ledgers are compared."""
Sums = Mapping[str, int]


@dataclass(frozen=True)
class Event:
    """One row of the history. Counts are tokens."""

    id: str
    key: str
    org: str
    kind: str
    stands_for: int
    status: str
    source: str
    input: int
    cached: int
    output: int
    cost_nanos: int | None
    charge_requests: int
    charge_tokens: int
    charge_nanos: int
    request_id: str = ""
    """Shared by the attempts of one request; empty where it has no other."""
    attempt: int = 1
    model: str = ""
    """That the provider was asked for."""

    def sums(self) -> dict[str, int]:
        """Return what it adds to a ledger."""
        unpriced = self.stands_for if self.cost_nanos is None else 0
        values = (
            self.stands_for, self.charge_requests, self.input, self.output, self.cost_nanos or 0, unpriced,
            self.charge_nanos,
        )  # fmt: skip
        return dict(zip(FIELDS, values, strict=True))


@dataclass
class Findings:
    """What is wrong after a schedule; nothing, if all three are empty."""

    lost: list[str] = field(default_factory=list)
    """Nonces without an event, and why they should have one."""
    doubled: list[str] = field(default_factory=list)
    """Nonces or events that were counted more than once, or out of nothing."""
    wrong: list[str] = field(default_factory=list)
    """Events that do not say what client and provider know."""

    @property
    def is_clean(self) -> bool:
        """Whether nothing is wrong."""
        return not (self.lost or self.doubled or self.wrong)


def examine(receipts: Sequence[Receipt], served: Iterable[Served], events: Sequence[Event]) -> Findings:
    """Return what is wrong between the books of one schedule, none of whose events were folded."""
    found = Findings()
    at_provider = _by_nonce(served, found)
    calls: dict[str, list[Event]] = defaultdict(list)
    seen: set[str] = set()
    for event in events:
        if event.id in seen:
            found.doubled.append(f"event {event.id} is there twice")
            continue
        seen.add(event.id)
        calls[event.request_id or event.id].append(event)
    call_of = {event.id: call for call in calls.values() for event in call}
    named = {id(call_of[receipt.event_id]) for receipt in receipts if receipt.event_id in call_of}
    spare: dict[str, list[list[Event]]] = defaultdict(list)
    for call in calls.values():
        if id(call) not in named:
            spare[call[0].key].append(call)
    keyless = [call for call in spare[""] if call[0].status == "refused"]
    spare[""] = [call for call in spare[""] if call[0].status != "refused"]
    for receipt in receipts:
        asked = at_provider.get(receipt.nonce, {})
        if receipt.event_id:
            mine = call_of.get(receipt.event_id, [])
        else:
            mine = spare[receipt.key].pop() if spare[receipt.key] else []
        if not mine and not receipt.event_id and not asked and keyless:
            keyless.pop()  # refused by a replica that did not know any key yet, and died before it could say so
        _examine_call(receipt, asked, mine, found)
    spare[""] += keyless
    for key, left in spare.items():
        found.doubled += [f"event {call[0].id} ({call[0].status}) of {key} is of no request" for call in left]
    return found


def _by_nonce(served: Iterable[Served], found: Findings) -> dict[str, dict[str, Served]]:
    """Return what the provider saw of each request, by the model that each attempt asked for."""
    known: dict[str, dict[str, Served]] = defaultdict(dict)
    for each in served:
        if each.model in known[each.nonce]:
            found.wrong.append(f"{each.nonce}: the provider was asked twice for {each.model or 'one model'}")
        known[each.nonce][each.model] = each
    return known


def _examine_call(receipt: Receipt, asked: Mapping[str, Served], call: Sequence[Event], found: Findings) -> None:
    """Compare one request with the events of its attempts: each that reached the provider has one of its own."""
    name = receipt.nonce
    if not call:
        if receipt.event_id:
            found.lost.append(f"{name}: the client has event {receipt.event_id}, the history has not")
        elif asked:
            found.lost.append(f"{name}: the provider was asked, and no event tells of it")
        return
    by_model = {event.model: event for event in call}
    if len(by_model) != len(call) or len({event.attempt for event in call}) != len(call):
        attempts = ", ".join(f"{event.attempt} {event.model}" for event in call)
        found.doubled.append(f"{name}: attempts that are counted twice: {attempts}")
    for model in asked.keys() - by_model.keys():
        found.lost.append(f"{name}: {model} was asked, and no event of the request tells of it")
    for event in call:
        _examine_one(receipt, asked.get(event.model), event, found)


def _examine_one(receipt: Receipt, served: Served | None, event: Event, found: Findings) -> None:
    name = receipt.nonce
    # A replica that is starting does not know any key yet, and says so with 503.
    if event.key != receipt.key and (event.key or event.status != "refused"):
        found.wrong.append(f"{name}: event {event.id} is of key {event.key}, not {receipt.key}")
    if event.id == receipt.event_id:
        _examine_told(receipt, event, found)
    if served is not None:
        found.wrong += [f"{name}: {problem}" for problem in _problems(served, event)]
    elif event.source == "provider":
        found.wrong.append(f"{name}: usage of a provider that was not asked")


def _examine_told(receipt: Receipt, event: Event, found: Findings) -> None:
    """Compare what the client was told with the event that it was told of."""
    name, said = receipt.nonce, (event.input, event.cached, event.output)
    if receipt.attempt != event.attempt:
        found.wrong.append(f"{name}: the client was told of attempt {receipt.attempt}, the event is of {event.attempt}")
    if not receipt.is_whole:
        return
    if receipt.usage is not None and receipt.usage != said:
        found.wrong.append(f"{name}: the client was told {receipt.usage}, the event says {said} ({event.source})")
    if receipt.cost_nanos is not None and receipt.cost_nanos != event.cost_nanos:
        found.wrong.append(f"{name}: the client was told {receipt.cost_nanos} nanos, the event says {event.cost_nanos}")


def _problems(served: Served, event: Event) -> list[str]:
    """Return where an event differs from what the provider has written down."""
    cost = nanos_of(served.input, served.cached, served.output, served.model or MODEL)
    problems = []
    if event.source == "provider":
        if (event.input, event.cached, event.output) != (served.input, served.cached, served.output):
            problems.append(f"the event says {event.input}/{event.cached}/{event.output} tokens, the provider {served}")
        if event.cost_nanos != cost or event.charge_nanos != cost:
            problems.append(f"costs {event.cost_nanos}, charged {event.charge_nanos}, the provider's prices say {cost}")
    elif event.status == "unknown":
        if event.cost_nanos is not None:
            problems.append(f"nobody knows its cost, and the event says {event.cost_nanos}")
        if event.charge_nanos < cost or event.charge_tokens < served.input + served.output:
            problems.append(f"charged {event.charge_nanos} nanos, less than its cost of {cost}")
    elif served.is_complete and served.output and not event.charge_nanos:
        problems.append(f"the provider answered it whole, and it is charged nothing ({event.status}, {event.source})")
    if event.charge_requests != 1:
        problems.append(f"the provider was asked, and {event.charge_requests} requests are charged")
    return problems


def examine_folded(receipts: Sequence[Receipt], served: Sequence[Served], events: Sequence[Event]) -> Findings:
    """Return what is wrong where events may have been folded: by key, in numbers and sums instead of ids."""
    found = Findings()
    at_provider = _by_nonce(served, found)
    keys = {receipt.key for receipt in receipts} | {event.key for event in events}
    for key in sorted(keys - {""}):  # a replica that is starting does not know any key yet
        mine = [receipt for receipt in receipts if receipt.key == key]
        counted = sum(event.stands_for for event in events if event.key == key)
        asked = sum(len(at_provider.get(receipt.nonce, ())) for receipt in mine)
        _bracket(key, asked, counted, sum(receipt.attempts for receipt in mine), found)
    named = sum(max(bool(receipt.event_id), len(at_provider.get(receipt.nonce, ()))) for receipt in receipts)
    most = sum(receipt.attempts for receipt in receipts)
    _bracket("all keys", named, sum(event.stands_for for event in events), most, found)
    unfolded = {event.id: event for event in events if event.kind == "usage"}
    for receipt in receipts:
        if event := unfolded.get(receipt.event_id):
            _examine_one(receipt, at_provider.get(receipt.nonce, {}).get(event.model), event, found)
    told = sum(nanos_of(*receipt.usage, receipt.model) for receipt in receipts if receipt.is_whole and receipt.usage)
    booked = sum(event.cost_nanos or 0 for event in events)
    if booked < told:
        found.lost.append(f"clients were told of {told} nanos together, {booked} are booked")
    return found


def _bracket(where: str, least: int, counted: int, most: int, found: Findings) -> None:
    if counted < least:
        found.lost.append(f"{where}: {least} requests that count, {counted} counted")
    if counted > most:
        found.doubled.append(f"{where}: {most} requests were sent, {counted} counted")


def add_up(events: Iterable[Event]) -> dict[str, dict[str, int]]:
    """Return the sums of events by organisation."""
    sums: dict[str, dict[str, int]] = {}
    for event in events:
        add(sums.setdefault(event.org, dict.fromkeys(FIELDS, 0)), event.sums())
    return sums


def add(into: dict[str, int], sums: Sums) -> None:
    """Add sums to others."""
    for name in FIELDS:
        into[name] += sums.get(name, 0)


def miscounted(rows: Mapping[str, Sums], ledgers: Mapping[str, Mapping[str, Sums]], found: Findings) -> None:
    """Add to `found` where ledgers (by name, of sums by organisation) have other sums than the rows, one by one."""
    for name, ledger in ledgers.items():
        for org in sorted({*rows, *ledger}):
            mine, others = rows.get(org, {}), ledger.get(org, {})
            more = others.get("events", 0) - mine.get("events", 0)
            if more:
                kind = found.doubled if more > 0 else found.lost
                kind += [f"{name}: {abs(more)} events {'more' if more > 0 else 'less'} than there are rows of {org!r}"]
            elif problem := difference({"rows": {org: mine}, name: {org: others}}):
                found.wrong.append(problem)


def difference(ledgers: Mapping[str, Mapping[str, Sums]]) -> str:
    """Return in words where ledgers (by name, of sums by account) differ first; empty if they agree."""
    accounts = sorted({account for ledger in ledgers.values() for account in ledger})
    for account in accounts:
        for name in FIELDS:
            said = {ledger: sums.get(account, {}).get(name, 0) for ledger, sums in ledgers.items()}
            if len(set(said.values())) > 1:
                return f"{account}: {name}: " + ", ".join(f"{ledger} {value}" for ledger, value in said.items())
    return ""
