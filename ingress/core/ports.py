"""What an exchange needs of the outside: effects that it asks for, and what all exchanges of a process share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from ingress.core.ladder import Pacer
from ingress.core.learned import Learned
from ingress.core.plan import Plan
from ingress.core.resolver import Resolver
from ingress.core.sparing import Sparing
from ingress.core.stats import Stats
from ingress.core.verdicts import Denied
from ingress.core.waiting import Ticket
from schemas.batches import Sighting


class Target:
    """Where a provider is and what its requests begin with; made once a policy version, by an adapter."""

    __slots__ = ("base_path", "lines", "origin", "problem")

    def __init__(self, origin: Any, base_path: bytes, lines: bytes, problem: str = "") -> None:
        """Describe a provider.

        Args:
            origin: what the provider pool calls an origin.
            base_path: path of the base URL, without a slash at its end.
            lines: header lines with host and credential.
            problem: why no request can be sent (a missing credential), for the client; empty if one can.
        """
        self.origin = origin
        self.base_path = base_path
        self.lines = lines
        self.problem = problem


class Effects(Protocol):
    """What an exchange asks for; each returns at once."""

    def record_admitted(self, partition: int, event: bytes, decisions: tuple[bytes, ...]) -> None:
        """Write to the log what to charge if we die, and what rules said; then call `Exchange.admitted_recorded`."""

    def record_terminal(self, partition: int, event: bytes, decisions: tuple[bytes, ...]) -> None:
        """Write the end of the exchange to the log; then call `Exchange.terminal_recorded`."""

    def record_attempt(self, partition: int, event: bytes) -> None:
        """Write the end of an attempt that another one follows at once; nothing is called."""

    def tell(self, sighting: Sighting) -> None:
        """Write what was seen of a batch to its log; then call `AccountExchange.told`, never at once."""

    def wait(self, delay_ms: int) -> None:
        """Call `Exchange.woken` after `delay_ms`."""

    def enter(self, ticket: Ticket, denied: Denied) -> int:
        """Put `ticket` into the waiting room and return its place, or 0 if there is none; then `Exchange.served`."""

    def leave(self) -> None:
        """Wait no longer: neither `Exchange.woken` nor `Exchange.served` is to come."""

    def send_request(self, origin: Any, request: bytes) -> None:
        """Send to the provider; its answer comes as `Exchange.provider_*`."""

    def is_sent(self) -> bool:
        """Tell whether bytes of the request may have reached the provider."""

    def read_on(self, most_ms: int) -> bool:
        """Go on with the provider's answer though the client is gone; `Exchange.drain_over` after `most_ms`.

        False if too many answers are read on already: then nothing has changed.
        """

    def cancel_request(self) -> None:
        """Hang up on the provider."""

    def send_whole(self, status: int, lines: bytes, body: bytes) -> None:
        """Send the client a whole answer; `lines` are header lines without framing."""

    def send_head(self, status: int, lines: bytes) -> None:
        """Begin a streamed answer."""

    def send_data(self, data: bytes) -> None:
        """Go on with a streamed answer."""

    def send_end(self, data: bytes) -> None:
        """End a streamed answer with its last bytes."""

    def cut(self) -> None:
        """End a begun answer so that the client sees it is incomplete."""


class Context:
    """What all exchanges of a process share; the composition root changes it between two exchanges."""

    __slots__ = (
        "closed", "closed_reason", "instance", "learned", "new_id", "oddities", "pacer", "partitions", "resolver",
        "sparing", "stats", "target_of",
    )  # fmt: skip

    def __init__(self, instance: str, partitions: int, stats: Stats, new_id: Callable[[int], bytes]) -> None:
        """Start closed, without a policy; `new_id` makes a UUIDv7 of unix milliseconds."""
        self.instance = instance
        self.new_id = new_id
        self.partitions = partitions
        self.stats = stats
        self.learned = Learned()
        self.pacer = Pacer()
        self.sparing = Sparing()
        self.oddities = Sparing(3_600_000)
        """Decisions about odd usage, by provider, model and flag."""
        self.resolver: Resolver | None = None
        self.target_of: TargetOf = _no_target
        self.closed = "no policy has been read yet"
        """Why nothing is admitted, for clients; empty while requests are admitted."""
        self.closed_reason = "not_ready"


class TargetOf(Protocol):
    """Finds the target of a plan."""

    def __call__(self, plan: Plan) -> Target:
        """Return where requests of `plan` go."""


def _no_target(plan: Plan) -> Target:
    raise LookupError(f"no target for provider {plan.provider!r}")
