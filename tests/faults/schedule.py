"""Which faults a schedule has, and when: a function of its seed alone. Pure.

Every schedule has one fault of the deck, taken in turn, so that any run of as many schedules as the deck has cards does
each of them; more than half have a second one from the other end of the deck, while the first may not be over.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from schemas.crash_points import ENFORCER_POINTS, INGRESS_POINTS, METER_POINTS, SINK_POINTS
from tests.faults.scenario import REPLICAS

SECOND = 0.6
"""So many schedules have a second fault."""
TRAFFIC_S = (0.6, 1.2)
"""Clients go on so long before the first fault."""
GAP_S = (0.2, 1.0)
"""Between the first fault and the second."""

ELSEWHERE = {"sink.between_months", "sink.repaired"}
"""Places that need a month's end, or a repair: other tests crash there."""
KILLED = ("ingress", "meter", "history", "broker", "ingress", "meter", "history", "enforcer")
FROZEN = ("ingress", "meter", "history", "broker")
TERMINATED = ("ingress", "meter", "history")
STORE_FAULTS = ("store-lost", "store-dies", "store-error", "store-reset")
"""What is done to the next inserts: done and the answer lost; done and the server gone; refused; cut off before."""
SERVER = 3
"""Every so many schedules have ClickHouse in a process of its own; all of them that disturb it do."""
LASTS_S = {"freeze": (0.5, 2.5), "lose-acks": (0.3, 1.5), "cut-off": (0.5, 2.0), "hold": (0.5, 2.0),
           "no-room": (0.5, 2.0)}  # fmt: skip
MORE = (("no-room", "ingress", ""),)
"""Faults beside the deck: one of them comes last in every so many schedules; what seeds had before stays as it was."""
MORE_EVERY, MORE_AT = 8, 5

OFTEN = {
    "ingress.admission_written": 40, "ingress.terminal_written": 40, "ingress.cut_noted": 15, "ingress.produced": 15,
    "ingress.segment_made": 3, "ingress.segment_begun": 3,
    "meter.folded": 40, "meter.published": 20, "meter.state_begun": 20,
    "meter.state_written": 3, "meter.acknowledged": 3, "sink.intent_recorded": 2, "sink.inserted": 2,
    "sink.committed": 3,
}  # fmt: skip
"""How often a place is reached within a second or two, at most: it is crashed at one of these times. Others: once."""


@dataclass(frozen=True)
class Act:
    """One fault."""

    kind: str
    role: str
    after_s: float
    """From the beginning of the clients' traffic."""
    lasts_s: float = 0.0
    point: str = ""
    """With `crash`: where, `name:n`."""

    @property
    def name(self) -> str:
        """Return what reports count it by: the kind, and where."""
        if self.kind == "crash":
            return f"crash/{self.point.partition(':')[0]}"
        return f"{self.kind}/{self.role.partition('-')[0]}"


@dataclass(frozen=True)
class Schedule:
    """What is done to the deployment between two rests."""

    seed: int
    acts: tuple[Act, ...]

    @property
    def name(self) -> str:
        """Return what is done, in a line."""
        return " + ".join(act.name for act in self.acts)

    @property
    def has_server(self) -> bool:
        """Whether ClickHouse is a server; else its engine is in the history's process."""
        return self.seed % SERVER == 0 or any(act.role == "store" for act in self.acts)


def _role_of(point: str) -> str:
    kind = point.partition(".")[0]
    return {"sink": "history"}.get(kind, kind)


def deck() -> list[tuple[str, str, str]]:
    """Return all faults: kind, kind of process, crash point; neighbours differ in kind as far as possible."""
    points = [p for p in (*INGRESS_POINTS, *METER_POINTS, *SINK_POINTS, *ENFORCER_POINTS) if p not in ELSEWHERE]
    piles = [
        [("crash", _role_of(point), point) for point in points],
        [("kill", role, "") for role in KILLED],
        [("freeze", role, "") for role in FROZEN] + [("terminate", role, "") for role in TERMINATED],
        [(kind, "ingress", "") for kind in ("lose-acks", "disk-full", "cut-off", "hold", "disk-error")],
        [("kill-all", "all", "")],
        [("kill", "store", ""), ("freeze", "store", "")] + [(kind, "store", "") for kind in STORE_FAULTS],
    ]
    cards: list[tuple[float, tuple[str, str, str]]] = []
    for offset, pile in enumerate(piles):  # each pile is spread over the whole deck
        cards += [((number + 0.5 + offset / 100) / len(pile), card) for number, card in enumerate(pile)]
    return [card for _, card in sorted(cards)]


def make(seed: int) -> Schedule:
    """Return the schedule of a seed."""
    cards = deck()
    rng = random.Random(f"schedule/{seed}")
    first = _act(cards[seed % len(cards)], rng, rng.uniform(*TRAFFIC_S))
    if rng.random() >= SECOND:
        return Schedule(seed, (first, *_more(seed, first.after_s)))
    second = _act(cards[(seed + len(cards) // 2) % len(cards)], rng, first.after_s + rng.uniform(*GAP_S))
    return Schedule(seed, (first, second, *_more(seed, second.after_s)))


def _more(seed: int, last_s: float) -> tuple[Act, ...]:
    """Return what comes third, if anything: by chance of its own."""
    if seed % MORE_EVERY != MORE_AT:
        return ()
    rng = random.Random(f"more/{seed}")
    return (_act(MORE[seed // MORE_EVERY % len(MORE)], rng, last_s + rng.uniform(*GAP_S)),)


def kills(seed: int) -> list[Schedule]:
    """Return schedules that kill each process once, and do nothing else: what recovery times are measured by."""
    made = []
    for number, role in enumerate(dict.fromkeys(KILLED)):
        rng = random.Random(f"kills/{seed}/{role}")
        embedded = SERVER * (seed + number) + 1
        made.append(Schedule(embedded, (_act(("kill", role, ""), rng, rng.uniform(*TRAFFIC_S)),)))
    return made


def _act(card: tuple[str, str, str], rng: random.Random, after_s: float) -> Act:
    kind, role, point = card
    name = f"ingress-{rng.randrange(REPLICAS) + 1}" if role == "ingress" else role
    lasts_s = rng.uniform(*LASTS_S[kind]) if kind in LASTS_S else 0.0
    where = f"{point}:{rng.randint(1, OFTEN.get(point, 1))}" if point else ""
    return Act(kind, name, round(after_s, 3), round(lasts_s, 3), where)
