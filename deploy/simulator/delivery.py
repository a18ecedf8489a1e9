"""Writes one answer to a connection: whole, in paced parts, or broken in the way that was asked for.

Knows bytes and timing; what they say was decided before (`answer`).
"""

import asyncio
import http
import socket
import struct
from collections.abc import Callable

from deploy.simulator.answer import JSON, Answer
from deploy.simulator.ledger import Entry, Ledger

_GARBAGE = b"\x16\x03\x01 this is not HTTP\r\n\r\n"
_BAD_JSON = b"<html><body>upstream connect error</body></html>"
_FLUSH_S = 0.001
_PHRASES = {status.value: status.phrase.encode("ascii") for status in http.HTTPStatus}
_HEADS: dict[tuple[int, bytes], bytes] = {}


def head_of(answer: Answer, *, keep_alive: bool, length: int | None) -> bytes:
    """Return the response head; without a length the body is chunked."""
    key = (answer.status, answer.content_type)
    start = _HEADS.get(key)
    if start is None:
        phrase = _PHRASES.get(answer.status, b"Overloaded")
        start = b"HTTP/1.1 %d %b\r\ncontent-type: %b\r\n" % (answer.status, phrase, answer.content_type)
        _HEADS[key] = start
    framing = b"transfer-encoding: chunked\r\n" if length is None else b"content-length: %d\r\n" % length
    return start + answer.headers + framing + (b"\r\n" if keep_alive else b"connection: close\r\n\r\n")


def reset(transport: asyncio.Transport) -> None:
    """Close so that the peer sees a connection reset."""
    sock: socket.socket | None = transport.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    transport.abort()


class Delivery:
    """One answer on its way; `done` is called when the connection is free for the next one."""

    __slots__ = ("_answer", "_done", "_keep_alive", "_ledger", "_loop", "_next", "_paused", "_timer", "_transport")

    def __init__(
        self,
        transport: asyncio.Transport,
        answer: Answer,
        ledger: Ledger,
        *,
        keep_alive: bool,
        done: Callable[[], None],
    ) -> None:
        """Prepare; nothing is written before `start`."""
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        self._answer = answer
        self._ledger = ledger
        self._keep_alive = keep_alive
        self._done = done
        self._next = 0
        self._paused = False
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin, after the delay if one was asked for."""
        if self._answer.fail == "timeout":
            return
        if self._answer.delay_s:
            self._after(self._answer.delay_s, self._begin)
        else:
            self._begin()

    def cancel(self) -> None:
        """Write nothing more: the client has gone."""
        if self._timer is not None:
            self._timer.cancel()

    def pause(self) -> None:
        """Hold parts back: the client reads slowly."""
        self._paused = True

    def resume(self) -> None:
        """Go on with the part that was held back, if one was."""
        self._paused = False
        if self._timer is None and 0 < self._next < len(self._answer.parts):
            self._step()

    def _after(self, delay_s: float, then: Callable[[], None]) -> None:
        self._timer = self._loop.call_later(delay_s, then)

    def _begin(self) -> None:
        self._timer = None
        fail = self._answer.fail
        if fail == "reset":
            reset(self._transport)
        elif fail == "garbage":
            self._transport.write(_GARBAGE)
            self._transport.close()
        elif fail == "bad_json":
            self._send_whole(Answer(content_type=JSON), _BAD_JSON, None)
        elif self._answer.streamed:
            self._begin_stream()
        else:
            self._send_whole(self._answer, self._answer.parts[0], self._answer.entry)

    def _send_whole(self, answer: Answer, body: bytes, entry: Entry | None) -> None:
        head = head_of(answer, keep_alive=self._keep_alive, length=len(body))
        if answer.fail in ("truncate", "reset_midway"):
            self._transport.write(head + body[: len(body) // 2])
            self._break_off()
        else:
            self._finish(head + body, entry)

    def _begin_stream(self) -> None:
        head = head_of(self._answer, keep_alive=self._keep_alive, length=None)
        parts = self._answer.parts
        if self._answer.delay_s or self._answer.fail in ("truncate", "reset_midway"):
            self._transport.write(head)
            self._step()
        else:
            frames = b"".join([b"%x\r\n%b\r\n" % (len(part), part) for part in parts])
            self._next = len(parts)
            self._finish(head + frames + b"0\r\n\r\n", self._answer.entry)

    def _step(self) -> None:
        self._timer = None
        if self._paused:
            return
        parts = self._answer.parts
        part = parts[self._next]
        self._next += 1
        frame = b"%x\r\n%b\r\n" % (len(part), part)
        if self._next == len(parts):
            self._finish(frame + b"0\r\n\r\n", self._answer.entry)
            return
        self._transport.write(frame)
        if self._next * 2 >= len(parts) and self._answer.fail in ("truncate", "reset_midway"):
            self._break_off()
        else:
            self._after(self._answer.delay_s, self._step)

    def _finish(self, last_bytes: bytes, entry: Entry | None) -> None:
        """Account for the answer, then let its last bytes go."""
        if entry is not None:
            self._ledger.record(entry)
        self._transport.write(last_bytes)
        if not self._keep_alive:
            self._transport.close()
        self._done()

    def _break_off(self) -> None:
        if self._answer.fail == "truncate":
            self._transport.close()
        elif self._transport.get_write_buffer_size():
            self._after(_FLUSH_S, self._break_off)
        else:
            reset(self._transport)
