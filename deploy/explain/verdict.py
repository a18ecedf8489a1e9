"""Explains a decision: reads it, folds its partition, recounts it, and says what came of that."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from deploy.explain.log import Found, LogReader, Lost, Say
from deploy.explain.recount import Check, recount
from deploy.explain.rules import rule_of
from deploy.explain.witness import Witness
from schemas.decisions import Decision
from schemas.ids import shard_of

AGREES, DIFFERS, NOTHING, UNKNOWN = "agrees", "differs", "nothing to recompute", "cannot be recomputed"


@dataclass(frozen=True)
class Explained:
    """What came of it."""

    decision: Decision
    verdict: str
    """`AGREES`, `DIFFERS`, `NOTHING` (no counter had a part in it) or `UNKNOWN` (the log does not reach back)."""
    why: str = ""
    checks: list[Check] = field(default_factory=list)
    partition: int = -1
    records: int = 0
    event_status: str = ""
    """How the request ended, as the log has it; empty if its event was not met."""

    @property
    def is_fine(self) -> bool:
        """Whether nothing speaks against the decision."""
        return self.verdict in (AGREES, NOTHING)


async def explain(reader: LogReader, found: Found, partitions: int, say: Say) -> Explained:
    """Return what came of recomputing a decision."""
    decision = found.decision
    if not decision.row:
        return _without_row(decision)
    partition = decision.partition if decision.partition >= 0 else found.partition
    home = shard_of(decision.attribution.org, partitions)
    if partition != home:
        why = f"the rows of {decision.attribution.org!r} are in partition {home}, the decision names {partition}"
        return Explained(decision, DIFFERS, why, partition=partition)
    witness = Witness(decision)
    lost = await reader.follow(witness, partition, say)
    if lost is not None or witness.standing is None:
        return Explained(decision, UNKNOWN, _words(decision, partition, lost), partition=partition)
    rule = rule_of(await reader.policy(decision.attribution.policy_version), decision.rule)
    checks = recount(decision, witness, rule)
    differing = [check for check in checks if not check.agrees]
    why = "; ".join(f"{check.name}: recorded {check.recorded}, found {check.recomputed}" for check in differing)
    status = "" if witness.request is None else witness.request.status
    verdict = DIFFERS if differing else AGREES
    return Explained(decision, verdict, why, checks, partition, witness.records, status)


def _without_row(decision: Decision) -> Explained:
    """A decision without a counter: a cap of single requests can be checked by itself, anything else is a fact."""
    if decision.rule and decision.limit and decision.asked:
        check = Check("cap", decision.limit, decision.asked, decision.asked > decision.limit)
        why = "" if check.agrees else f"the request is within the cap of {decision.limit:,}"
        return Explained(decision, AGREES if check.agrees else DIFFERS, why, [check])
    return Explained(decision, NOTHING, f"no counter had a part in it: {decision.reason}")


def _words(decision: Decision, partition: int, lost: Lost | None) -> str:
    if lost is not None and lost.begins > 0:
        return (
            f"partition {partition} of `usage` begins at offset {lost.begins:,} now, and the state at "
            f"{decision.fence:,} needs all of it; what the decision says stands, and its row is in the history. To "
            "be able to recompute for longer, raise retention.ms of the topic `usage`"
        )
    ends = 0 if lost is None else lost.ends
    return (
        f"partition {partition} of `usage` ends at offset {ends:,}, before the fence {decision.fence:,} of the "
        "decision: this is not the log that it was made on, or the broker has lost records"
    )


def as_object(found: Explained) -> dict[str, Any]:
    """Return it for programs."""
    return {
        "verdict": found.verdict,
        "agrees": found.is_fine,
        "why": found.why,
        "partition": found.partition,
        "records": found.records,
        "request_status": found.event_status,
        "checks": [check._asdict() for check in found.checks],
    }
