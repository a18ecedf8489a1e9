"""The exchange of a request about an account, whose answer may say something of batches: told before it is given.

Law: while what was seen in an answer is not on the log, the client has not all of that answer. If the log does not
take it in time, a whole answer becomes an error and one that streams is cut off; the client asks again, and all of it
is seen again.
Everything else is as `exchange` says. Free of I/O, clock and randomness.
"""

from __future__ import annotations

import re
from typing import Any

from ingress.core.admitting import CUT, DRAINING, RELAYING, SENT
from ingress.core.batches import Sight, Witness
from ingress.core.bytes_relay import BytesRelay
from ingress.core.endings import FAILED, NONE
from ingress.core.exchange import Exchange
from ingress.core.head import HeaderList
from ingress.core.lines import LineReader, LinesRelay
from ingress.core.ports import Context, Effects
from ingress.core.protocols import Operation
from schemas.batches import Line, LinesSeen, Sighting
from schemas.tokens import NO_TOKENS

NOT_RECORDED = "batch_not_recorded"
RETRY_S = 2
_TOLD = (
    "The provider has answered, but what its answer says of batches could not be recorded in time. Ask again: nothing "
    "is lost. A batch that was to be created may have been: look for it before it is created again."
)
_HOST = re.compile(rb"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


class AccountExchange(Exchange):
    """The state machine of one request whose answer is looked at for batches."""

    __slots__ = ("_is_over", "_lines_seen", "_now_ms", "_scheme", "_sight", "_untold", "_url")

    def __init__(
        self, context: Context, effects: Effects, operation: Operation, query: bytes, now_ms: int, scheme: str = "http"
    ) -> None:
        """Begin an exchange whose client has reached us by `scheme`."""
        super().__init__(context, effects, operation, query, now_ms)
        assert operation.sees is not None
        self._sight: Sight = operation.sees
        self._scheme = scheme
        self._url = ""
        """By which the client reaches us."""
        self._lines_seen: LineReader | None = None
        self._untold = 0
        """Sightings that are not on the log yet."""
        self._is_over = False
        """The provider's answer is whole, and waits for them."""
        self._now_ms = now_ms

    # -- facts ---------------------------------------------------------------------------------------------------

    def begin(self, headers: HeaderList, now_ms: int) -> bool:
        """Take the request's head; tell whether its body is of any use."""
        self._url = _own_url(headers, self._scheme)
        return super().begin(headers, now_ms)

    def provider_head(self, status: int, headers: HeaderList, now_ms: int) -> None:
        """Take the head of the provider's answer; of a file its lines are read from now on."""
        self._now_ms = now_ms
        super().provider_head(status, headers, now_ms)
        read = self._sight.line
        if read is not None and self._lines_seen is None and type(self._relay) is BytesRelay:
            self._lines_seen = LineReader(read, self._sight.file_id or self._sight.batch_id, self._tell_lines)
            self._relay = LinesRelay(self._lines_seen)

    def provider_data(self, data: bytes, now_ms: int) -> bool:
        """Take bytes of the provider's answer; True if a whole answer has become more than is kept."""
        self._now_ms = now_ms
        return super().provider_data(data, now_ms)

    def provider_end(self, now_ms: int) -> None:
        """Take that the provider's answer is whole: it goes on once what it says is on the log."""
        self._now_ms = now_ms
        if self.state in (SENT, RELAYING, DRAINING):
            self._see()
            self._is_over = True
        self._hand_over(now_ms)

    def client_gone(self, now_ms: int) -> None:
        """Take that the client has hung up, which changes nothing where only the log is waited for."""
        if not self._is_over:
            super().client_gone(now_ms)

    def told(self, is_recorded: bool, now_ms: int) -> None:
        """Take that a sighting is on the log, or that it could not be written in time."""
        self._untold -= 1
        if self.state not in (SENT, RELAYING, DRAINING):
            return
        if not is_recorded:
            self._end_unrecorded(now_ms)
        elif self._is_over:
            self._hand_over(now_ms)

    # -- within --------------------------------------------------------------------------------------------------

    def _hand_over(self, now_ms: int) -> None:
        """Give the answer to the client if nothing is waited for any more."""
        if not self._untold:
            self._is_over = False  # what follows may be another attempt
            super().provider_end(now_ms)

    def _end_unrecorded(self, now_ms: int) -> None:
        """End though the provider has done its part."""
        self._is_over = False
        if self.state == DRAINING:
            self._end_drain("failed", now_ms)
            return
        self._effects.cancel_request()
        if self.state == RELAYING:
            self._last = CUT
        else:
            self._tell(503, NOT_RECORDED, _TOLD, b"retry-after: %d\r\n" % RETRY_S)
        self._settle(FAILED, NOT_RECORDED, NO_TOKENS, NONE, self.status, now_ms)

    def _settle(self, *args: Any, **options: Any) -> None:
        """End the attempt; what was seen of an answer that is incomplete is told as well, and not waited for."""
        if self._lines_seen is not None:
            self._lines_seen.flush()
        super()._settle(*args, **options)

    def _see(self) -> None:
        """Tell what a good answer says."""
        sight, parts = self._sight, self._parts
        if self._lines_seen is not None:
            self._lines_seen.finish()
            self._lines_seen.flush()
        elif parts is not None and sight.batches is not None and 200 <= self.status < 300:
            body = b"".join(parts)
            for seen in sight.batches(body, self._witness(), sight.is_creation):
                self._tell_of(seen)
            if sight.lead_here is not None:
                self._parts = [sight.lead_here(body, self._url)]

    def _tell_lines(self, lines: list[Line]) -> None:
        witness, sight = self._witness(), self._sight
        self._tell_of(
            LinesSeen(
                witness.provider, sight.batch_id, sight.file_id, witness.seen_ms, witness.attribution, lines
            )
        )  # fmt: skip

    def _tell_of(self, sighting: Sighting) -> None:
        self._untold += 1
        self._effects.tell(sighting)

    def _witness(self) -> Witness:
        plan = self._plan
        assert plan is not None
        return Witness(plan.provider, plan.attribution, self._now_ms)


def _own_url(headers: HeaderList, scheme: str) -> str:
    """Return the URL by which a client reaches us, without a path; empty if it does not say so."""
    host = b""
    for name, value in headers:
        if name == b"host":
            host = value.strip()
        elif name == b"x-forwarded-proto":
            said = value.partition(b",")[0].strip().lower()
            scheme = said.decode() if said in (b"http", b"https") else scheme
    return f"{scheme}://{host.decode()}" if _HOST.fullmatch(host) else ""
