"""Asks the kernel whether a request can have reached a provider that closed the connection.

A provider may close an idle connection in the very moment in which a request is written to it. Its system then
refuses the request bytes, so they are never acknowledged. A provider that took the request and then closed has
acknowledged all of it. Only the first may be sent again without the risk of being processed, and charged, twice.
"""

import asyncio
import socket
import struct
import sys

# Linux, struct tcp_info (include/uapi/linux/tcp.h): payload counters of the connection so far.
_BYTES_ACKED = 120
_BYTES_SENT = 200
_BYTES_RETRANSMITTED = 208
_INFO_BYTES = 216


def request_was_not_taken(transport: asyncio.Transport) -> bool:
    """Whether part of what was written had not been accepted by the peer's system when it closed.

    Call it once the peer's end of stream was seen and nothing was received since the last write. False whenever the
    platform cannot tell.
    """
    if transport.get_write_buffer_size():
        return True
    sock = transport.get_extra_info("socket")
    if sock is None or not sys.platform.startswith("linux"):
        return False
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
    except OSError:
        return False
    return len(info) >= _INFO_BYTES and _unacknowledged_bytes(info) > 0


def _unacknowledged_bytes(info: bytes) -> int:
    """Payload bytes sent and not acknowledged; the acknowledged SYN counts as one byte, so a lone byte is missed."""
    acked, sent, again = (
        struct.unpack_from("=Q", info, offset)[0] for offset in (_BYTES_ACKED, _BYTES_SENT, _BYTES_RETRANSMITTED)
    )
    return int(sent - again - acked)
