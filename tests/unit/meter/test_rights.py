"""Rights: what they begin with, how they move, and that what may be in use never exceeds the limit."""

from __future__ import annotations

import pytest

from meter.core.rights import carried
from meter.core.rows import Row
from tests.property.fold_logs import START_MS
from tests.unit.meter.fold_builders import COST, DAY, TOKENS, Log, batch, evict

MINUTE = f"team/tokens/org=acme/minute@{START_MS // 1000}+60"
NEXT = f"team/tokens/org=acme/minute@{START_MS // 1000 + 60}+60"
HOUR = f"team/concurrency/org=acme/hour@{START_MS // 1000}+3600"
NEXT_HOUR = f"team/concurrency/org=acme/hour@{START_MS // 1000 + 3600}+3600"
HALF_MINUTE_MS = 30_000


class Group(Log):
    """Replicas `i1` … with equal shares that everybody has installed; records and acknowledgements by hand."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.seqs = {f"i{number + 1}": 0 for number in range(count)}
        self.at_ms = START_MS
        for _ in range(3):  # joined; shares given; shares in force everywhere
            self.acknowledge(*self.seqs)

    def say(self, name: str, **fields: object) -> Group:
        """Fold a record of a replica."""
        self.seqs[name] += 1
        value = batch(name, seq=self.seqs[name], **({"cut_ms": self.at_ms} | fields))  # type: ignore[arg-type]  # as batch has them
        self.add(value, at_ms=self.at_ms)
        return self

    def acknowledge(self, *names: str) -> Group:
        """Let replicas install, and say so, what is published now."""
        fence = self.shard.fence
        for name in names:
            self.say(name, ack=fence)
        return self

    def rights(self, key: str) -> list[int]:
        """Return the rights of all."""
        return [self.right(key, name) for name in self.seqs]

    def may_use(self, key: str) -> int:
        """Return what all of it may be in use: the largest rights, or more where more is used, and of gone ones."""
        row = self.shard.rows.by_key[key]
        most = 0
        for name in self.seqs:
            holding = row.holdings.get((name, 1))
            net = holding.net if holding else 0
            most += max(self.most(key, name), net) - net
        return row.total + most


def test_rights_begin_with_the_shares_that_everybody_may_be_using() -> None:
    """When a row appears with its limit, whoever had a share of it has a right to that much; the rest is exact."""
    group = Group(3)
    group.say("i2", gauges={TOKENS: 5}, limit=100)
    assert group.rights(TOKENS) == [34, 33, 33]
    assert group.may_use(TOKENS) == 100


def test_a_row_without_a_limit_has_no_rights_until_it_is_told() -> None:
    """What was booked before counts, and what a gone replica used is taken from everybody's share."""
    group = Group(3)
    group.say("i3", amount=10, rows=(TOKENS,))
    group.add(evict("i3"))
    assert group.shard.rows.by_key[TOKENS].limit == -1
    group.say("i1", gauges={TOKENS: 2}, limit=100)
    assert group.right(TOKENS, "i1") + group.right(TOKENS, "i2") <= 90
    assert group.right(TOKENS, "i2") >= 30
    # Until it has acknowledged that, either may be using a third or a half of 100, as if nobody had used anything.
    assert (group.most(TOKENS, "i1"), group.most(TOKENS, "i2")) == (50, 50)


def test_what_is_lowered_is_free_only_once_it_is_acknowledged() -> None:
    """A replica that waits gets what the other did not need, when that one has said that it knows."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 10}, limit=100)
    group.say("i2", gauges={TOKENS: 50}, limit=100, wants={TOKENS: (30, 30)})
    right = group.right(TOKENS, "i1")
    assert right < 50
    assert group.most(TOKENS, "i1") == 50
    assert group.right(TOKENS, "i2") == 50
    assert group.may_use(TOKENS) <= 100
    group.acknowledge("i2")
    assert group.right(TOKENS, "i2") == 50, "its own acknowledgement frees nothing"
    group.acknowledge("i1")
    assert group.most(TOKENS, "i1") == right
    assert group.right(TOKENS, "i2") >= 80
    assert group.may_use(TOKENS) <= 100


def test_what_a_lowering_frees_is_not_put_off_for_ever() -> None:
    """Until its holder knows of it, it is lowered again only by most of what is left: a few times at most."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 10}, limit=10_000)
    rights, used = [group.right(TOKENS, "i1")], 4_000
    for more in range(60):
        group.say("i2", gauges={TOKENS: used}, wants={TOKENS: (1_000 + 50 * more, 30)}, limit=10_000)
        rights.append(group.right(TOKENS, "i1"))
    assert rights == sorted(rights, reverse=True)
    assert 2 <= len(set(rights)) <= 6
    group.acknowledge("i1")
    assert group.most(TOKENS, "i1") == rights[-1]
    assert group.right(TOKENS, "i2") >= used + 1_000


def test_an_acknowledgement_of_something_older_frees_nothing() -> None:
    """Only a snapshot from the fence on that lowered the right tells of it."""
    group = Group(2)
    before = group.shard.fence
    group.say("i1", gauges={TOKENS: 10}, limit=100)
    group.say("i2", gauges={TOKENS: 50}, limit=100, wants={TOKENS: (30, 30)})
    group.say("i1", ack=before + 1)
    assert (group.most(TOKENS, "i1"), group.right(TOKENS, "i2")) == (50, 50)


def test_a_lowered_right_is_never_below_what_its_holder_is_known_to_use() -> None:
    """What is used cannot be given to anybody else."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 45}, limit=100)
    group.say("i2", gauges={TOKENS: 50}, wants={TOKENS: (1_000, 1_000)}, limit=100)
    group.acknowledge("i1", "i2")
    assert group.right(TOKENS, "i1") >= 45
    assert group.may_use(TOKENS) <= 100


def test_near_the_cap_one_after_the_other_gets_all_it_needs() -> None:
    """Two requests of 60 do not fit into 100 twice: one replica gets 60 rather than both 50."""
    group = Group(2)
    for _ in range(3):
        group.say("i1", gauges={TOKENS: 0}, wants={TOKENS: (60, 60)}, limit=100)
        group.say("i2", gauges={TOKENS: 0}, wants={TOKENS: (60, 60)}, limit=100)
        group.acknowledge("i1", "i2")
    assert sorted(group.rights(TOKENS))[1] >= 60
    assert group.may_use(TOKENS) <= 100


def test_whoever_waits_gets_a_need_met_before_the_others_are_topped_up() -> None:
    """A right that is too small for the first request that waits is of no use, and is not given."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 49}, limit=100)
    group.say("i2", gauges={TOKENS: 50}, wants={TOKENS: (10, 10)}, limit=100)
    group.acknowledge("i1", "i2")
    assert group.right(TOKENS, "i2") <= 50, "only 1 is left, and 10 are needed"
    group.say("i1", gauges={TOKENS: 0}, amount=20, rows=(TOKENS,))
    group.acknowledge("i1", "i2").acknowledge("i1", "i2")
    assert group.right(TOKENS, "i2") >= 60
    assert group.may_use(TOKENS) <= 100


def test_who_asks_for_nothing_keeps_a_floor_unless_somebody_needs_it() -> None:
    """Demand alone leaves an idle replica a sixteenth of an equal part; a want that needs all of it does not."""
    group = Group(2)
    group.say("i2", gauges={TOKENS: 0}, limit=1_600)
    for used in range(200, 801, 200):
        group.say("i1", gauges={TOKENS: used}, limit=1_600).acknowledge("i1", "i2")
    left = 1_600 - 800
    assert group.right(TOKENS, "i2") >= left // 32
    assert group.right(TOKENS, "i1") > 800
    group.say("i1", wants={TOKENS: (left, left)}, limit=1_600).acknowledge("i1", "i2").acknowledge("i1", "i2")
    assert group.rights(TOKENS) == [1_600, 0]


def test_nothing_moves_while_nobody_is_short() -> None:
    """Replicas that use little of what they have leave rights as they are."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 5}, limit=10_000)
    before = group.rights(TOKENS)
    for used in range(6, 30):
        group.say("i1", gauges={TOKENS: used}, limit=10_000).acknowledge("i2")
    assert group.rights(TOKENS) == before


def test_a_lowered_limit_takes_from_every_right_in_proportion() -> None:
    """Until all have acknowledged, the old rights may still be in use."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 1}, limit=1_000).acknowledge("i1", "i2")
    group.say("i1", gauges={TOKENS: 2}, limit=400, version=2)
    assert group.rights(TOKENS) == [200, 200]
    assert group.may_use(TOKENS) == 1_000
    group.say("i2", gauges={TOKENS: 2}, limit=1_000)
    assert group.shard.rows.by_key[TOKENS].limit == 400, "the older policy of the other replica changes nothing"
    group.acknowledge("i1", "i2")
    assert group.may_use(TOKENS) == 400


def test_what_was_used_beyond_a_lowered_limit_stays_used_and_leaves_nothing() -> None:
    """Nobody else has room in what one replica has used up."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 1}, limit=100).acknowledge("i1", "i2")
    group.say("i1", gauges={TOKENS: 1}, limit=40, version=2)
    group.say("i2", gauges={TOKENS: 45}, limit=100)
    group.acknowledge("i1", "i2")
    assert group.rights(TOKENS) == [0, 20], "less than what either uses"
    assert group.may_use(TOKENS) == 46
    group.say("i2", gauges={TOKENS: 20}, limit=40, version=2)
    assert group.may_use(TOKENS) <= 40, "what is given back is not taken again beyond the limit"
    group.say("i1", wants={TOKENS: (10, 10)}, limit=40, version=2).acknowledge("i1", "i2").acknowledge("i1", "i2")
    assert group.right(TOKENS, "i1") >= 11
    assert group.may_use(TOKENS) <= 40


def test_a_raised_limit_is_given_to_who_needs_it() -> None:
    """The difference is free at once: nobody may have been using it."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 50}, limit=100).acknowledge("i1", "i2")
    group.say("i2", gauges={TOKENS: 45}, limit=100).acknowledge("i1", "i2")
    group.say("i1", gauges={TOKENS: 50}, wants={TOKENS: (40, 40)}, limit=200, version=2)
    assert group.right(TOKENS, "i1") >= 90
    assert group.may_use(TOKENS) <= 200


def test_a_limit_that_is_raised_before_all_know_the_row_counts_what_they_may_take_of_it() -> None:
    """A replica that has the new policy, and has not heard of the row, may be using its share of the higher limit."""
    group = Group(2)
    group.say("i1", gauges={TOKENS: 10}, limit=100)
    group.say("i1", gauges={TOKENS: 10}, wants={TOKENS: (900, 1)}, limit=1_000, version=2)
    assert group.most(TOKENS, "i2") == 500
    assert group.may_use(TOKENS) <= 1_000
    group.acknowledge("i2").acknowledge("i1")
    assert group.right(TOKENS, "i1") > 500
    assert group.may_use(TOKENS) <= 1_000


def test_a_gone_replica_leaves_its_right_and_not_what_it_used() -> None:
    """Others get what it had left at once; what it settled, and money in flight, stays."""
    group = Group(2)
    group.say("i1", gauges={COST: 10}, limit=100)
    group.say("i2", amount=5, rows=(COST,), gauges={COST: 20}, limit=100)
    group.add(evict("i2"))
    del group.seqs["i2"]
    group.say("i1", wants={COST: (500, 1)}, limit=100)
    assert group.right(COST, "i1") == 100 - 25
    assert group.may_use(COST) == 100


def test_a_joiner_has_no_right_in_a_row_that_is_known_until_it_asks() -> None:
    """It takes nothing from the others by being there."""
    group = Group(1)
    group.say("i1", gauges={TOKENS: 60}, limit=100)
    group.seqs["i2"] = 0
    group.acknowledge("i2", "i1").acknowledge("i2", "i1").acknowledge("i2", "i1")
    assert group.rights(TOKENS) == [100, 0]
    group.say("i2", wants={TOKENS: (10, 10)}, limit=100)
    assert group.right(TOKENS, "i2") == 0
    group.acknowledge("i1")
    assert group.right(TOKENS, "i2") >= 10
    assert group.may_use(TOKENS) <= 100


# ------------------------------------------------------------------------------------------- windows that slide


def sliding(group: Group) -> int:
    """Return what may count in the present minute, with what counts of the one before now."""
    rows = group.shard.rows.by_key
    row, prev = rows[NEXT], rows[MINUTE]
    most = here = before = 0
    for name in group.seqs:
        own, held = prev.holdings.get((name, 1)), row.holdings.get((name, 1))
        part = own.net if own else 0
        here += held.net if held else 0
        before += part
        most += max(group.most(NEXT, name), (held.net if held else 0) + carried(row, part, group.shard.log_ms))
    return most + row.total - here + carried(row, max(prev.total - before, 0), group.shard.log_ms)


def test_a_new_minute_begins_within_what_the_one_before_left() -> None:
    """One replica used it all: the other has nothing at first, though by its share half the new minute is its own."""
    group = Group(2)
    group.say("i1", gauges={MINUTE: 50}, limit=100)
    group.say("i1", gauges={MINUTE: 50}, wants={MINUTE: (50, 50)}, limit=100)
    group.acknowledge("i1", "i2").say("i1", gauges={MINUTE: 100}, wants={MINUTE: (0, 0)}, limit=100)
    assert group.rights(MINUTE) == [100, 0]
    group.acknowledge("i1", "i2")
    group.at_ms += 60_000
    group.say("i2", wants={NEXT: (10, 10)}, limit=100)
    group.acknowledge("i1", "i2")
    assert group.right(NEXT, "i2") == 0
    assert sliding(group) <= 100
    group.at_ms += HALF_MINUTE_MS
    group.acknowledge("i1", "i2").say("i2", wants={NEXT: (10, 10)}, limit=100)
    group.acknowledge("i1", "i2")
    assert group.right(NEXT, "i2") >= 10
    assert sliding(group) <= 100


def test_a_new_minute_gives_no_rights_that_the_one_before_has_used_up() -> None:
    """Also where the replica that begins it has plenty: the other's share is used up by what a third carries."""
    group = Group(3)
    group.say("i1", gauges={MINUTE: 30}, wants={MINUTE: (50, 50)}, limit=90)
    group.acknowledge(*group.seqs).say("i1", gauges={MINUTE: 80}, wants={MINUTE: (0, 0)}, limit=90)
    group.acknowledge(*group.seqs)
    group.at_ms += 60_000
    group.say("i3", gauges={NEXT: 1}, limit=90)
    assert sum(max(right, used) for right, used in zip(group.rights(NEXT), (80, 0, 1), strict=True)) <= 90
    group.acknowledge(*group.seqs)
    assert sliding(group) <= 90


@pytest.mark.parametrize(("at_ms", "counts"), [(0, 80), (15_000, 60), (30_000, 40), (59_999, 1), (60_000, 0)])
def test_what_gone_replicas_used_before_counts_by_and_by_less(at_ms: int, counts: int) -> None:
    """It takes from what may be given in a sliding window, rounded up."""
    row = Row(NEXT)
    assert carried(row, 80, START_MS + 60_000 + at_ms) == counts


def test_what_is_in_flight_counts_in_the_next_hour_undiminished() -> None:
    """A row of concurrency is one count over two windows: a request that runs on is one that runs."""
    group = Group(2)
    group.say("i1", gauges={HOUR: 5}, limit=10)
    group.say("i2", gauges={HOUR: 4}, limit=10)
    group.acknowledge("i1", "i2")
    group.at_ms += 3_600_000 + 1_800_000
    group.say("i2", gauges={NEXT_HOUR: 1}, wants={NEXT_HOUR: (3, 1)}, limit=10)
    row = group.shard.rows.by_key[NEXT_HOUR]
    assert carried(row, 5, group.at_ms) == 5
    group.acknowledge("i1", "i2")
    assert group.right(NEXT_HOUR, "i2") <= 5
    group.say("i1", gauges={HOUR: 1})
    group.acknowledge("i1", "i2").say("i2", wants={NEXT_HOUR: (3, 1)}, limit=10)
    group.acknowledge("i1", "i2")
    assert group.right(NEXT_HOUR, "i2") >= 4 + 1 + 3, "four run from before, one began now, three wait"
    assert group.right(NEXT_HOUR, "i2") - 4 + 4 + 1 <= 10


def test_a_replica_that_may_still_be_in_the_window_before_counts_with_all_it_may_have_there() -> None:
    """Its clock is behind: what it may take of the old hour is not given to others in the new one until it tells."""
    group = Group(2)
    group.say("i1", gauges={HOUR: 1}, limit=10)
    group.acknowledge("i1", "i2")
    group.at_ms += 3_600_000
    group.say("i2", gauges={NEXT_HOUR: 1}, wants={NEXT_HOUR: (9, 5)}, limit=10)
    late = START_MS + 3_599_000
    group.say("i1", ack=group.shard.fence, cut_ms=late).say("i2", ack=group.shard.fence)
    assert group.right(HOUR, "i1") == 5
    assert group.right(NEXT_HOUR, "i2") == 5, "the other may still take 4 more of the old hour"
    group.say("i1", wants={HOUR: (9, 9)}, limit=10, cut_ms=late)
    group.say("i1", ack=group.shard.fence, cut_ms=late).say("i2", ack=group.shard.fence)
    assert group.right(HOUR, "i1") == 5, "what is over gives nothing more"
    group.acknowledge("i1").acknowledge("i1")
    assert group.right(NEXT_HOUR, "i2") == 9, "one of the old hour still runs"


def test_while_more_may_be_in_use_than_there_is_nobody_is_given_any() -> None:
    """A gone replica used much of the minute before: shares of the new one are lowered, and not raised again."""
    group = Group(3)
    group.say("i3", amount=60, rows=(MINUTE,), gauges={MINUTE: 0}, limit=90)
    group.add(evict("i3"))
    del group.seqs["i3"]
    group.acknowledge("i1", "i2").acknowledge("i1", "i2")
    group.at_ms += 60_000
    group.say("i1", gauges={NEXT: 1}, wants={NEXT: (80, 5)}, limit=90)
    assert sum(group.rights(NEXT)) <= 30
    group.acknowledge("i1", "i2").acknowledge("i1", "i2")
    assert sum(group.rights(NEXT)) <= 30
    assert group.right(NEXT, "i1") >= 25


def test_rights_of_one_row_do_not_touch_another() -> None:
    """Each row stands alone."""
    other = f"team/tokens/org=acme,team=x/{DAY}"
    group = Group(2)
    group.say("i1", gauges={TOKENS: 1, other: 1}, limit=100)
    group.say("i2", gauges={TOKENS: 50}, wants={TOKENS: (40, 40)}, limit=100)
    group.acknowledge("i1", "i2")
    assert group.rights(other) == [50, 50]
    assert group.right(TOKENS, "i2") >= 90
