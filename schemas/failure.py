"""What a replica does while Kafka or the meter is gone, by tier: part of the policy document."""

from __future__ import annotations

from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import Field, model_validator

from schemas.fields import DocumentPart, Milliseconds, Part, PolicyProblems, Tier

DependencyName = Literal["kafka", "meter"]
OnFailure = Literal["share", "closed", "open", "stop"]
"""`share`: go on with what this replica may use by itself, as at any other time; no limit is ever passed. Without the
broker that ends after 54 s, when others may be given its part: then it is `closed`.
`closed`: refuse.
`open`: go on beyond that by a bounded allowance, which is what may go beyond the limit; counted all the same. Without
the broker it is all that is left after 54 s.
`stop`: the replica says that it is not ready and refuses everything of the tier, so that a load balancer passes it by.
"""
DEPENDENCIES: tuple[DependencyName, ...] = ("kafka", "meter")
DEFAULT_AFTER_MS = 900_000


class FailureMode(NamedTuple):
    """What applies to one tier while one dependency is gone for longer than `after`."""

    action: OnFailure
    allowance_percent: int
    """Of each limit, for each replica, in each window; 0 unless the action is `open`."""


class TierFailure(DocumentPart):
    """What a tier does differently."""

    kafka: OnFailure | None = None
    """While no broker acknowledges this replica's records; left out: what the document says for all tiers."""
    meter: OnFailure | None = None
    """While the broker is there and the meter publishes nothing; left out: what the document says for all tiers."""
    allowance: Part = 0
    """With `open`: percent of each limit that each replica may use beyond its share in a window."""


class Failure(DocumentPart):
    """What replicas do once Kafka or the meter has been gone for a while.

    Before that, and by default, they go on with what each may use by itself: no limit is passed, and a limit may be
    reached early.
    """

    after: Annotated[Milliseconds, Field(ge=1_000, le=86_400_000)] = DEFAULT_AFTER_MS
    """How long a dependency has to be gone before anything but `share` begins; a second to a day: a broker that is
    well takes up to half a second between two signs of life."""
    default: OnFailure = "share"
    """For every tier and dependency that nothing else is said for: `share`, `closed`, `open` or `stop`."""
    kafka: OnFailure | None = None
    """While no broker acknowledges this replica's records; left out: `default`."""
    meter: OnFailure | None = None
    """While the broker is there and the meter publishes nothing; left out: `default`."""
    allowance: Part = 0
    """With `open`: percent of each limit that each replica may use beyond its share in a window."""
    tiers: dict[Tier, TierFailure] = Field(default={})
    """Tier → what it does differently."""

    @model_validator(mode="after")
    def _allowance_belongs_to_open(self) -> Self:
        modes = [(tier, name, self.mode(tier, name)) for tier in range(3) for name in DEPENDENCIES]
        problems: list[tuple[str, Any, str]] = [
            (f"tiers.{tier}.allowance", None, f"{name}: open needs one, such as 10%; without it is share")
            for tier, name, mode in modes
            if mode.action == "open" and not mode.allowance_percent
        ]
        by = {
            (tier in self.tiers and self.tiers[tier].allowance > 0, tier) for tier, _, m in modes if m.action == "open"
        }
        if self.allowance and not any(not own for own, _ in by):
            problems.append(("allowance", f"{self.allowance}%", "it does nothing: no tier is open by it; remove it"))
        problems += [
            (f"tiers.{tier}.allowance", f"{part.allowance}%", "it does nothing: the tier is not open; remove it")
            for tier, part in self.tiers.items()
            if part.allowance and (True, tier) not in by
        ]
        if problems:
            raise PolicyProblems(problems)
        return self

    def _own_allowance(self, tier: int) -> int:
        return self.tiers[tier].allowance if tier in self.tiers else 0

    def mode(self, tier: int, dependency: DependencyName) -> FailureMode:
        """Return what requests of `tier` meet once `dependency` has been gone for longer than `after`."""
        own = self.tiers.get(tier)
        parts = (own, self) if own is not None else (self,)
        said = [part.kafka if dependency == "kafka" else part.meter for part in parts]
        action = next((found for found in said if found is not None), self.default)
        return FailureMode(action, (self._own_allowance(tier) or self.allowance) if action == "open" else 0)
