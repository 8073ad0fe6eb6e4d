"""Ports of loopback for servers of the tests."""

import functools
import itertools
import socket
from collections.abc import Iterator

_FIRST, _END = 20_000, 32_000
"""Below the range from which the system gives ports away: a server on port 0, the near end of a connection."""
_SPAN = 200


def free_port() -> int:
    """One that nobody else will take before it is used: each process that runs tests has a span of its own."""
    while True:
        port = next(_ports())
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


@functools.cache
def _ports() -> Iterator[int]:
    return itertools.cycle(range(_claim() + 1, _claim() + _SPAN))


@functools.cache
def _claim() -> int:
    """The first port of a span; bound as long as the process lives, which tells others that the span is taken."""
    for first in range(_FIRST, _END, _SPAN):
        mark = socket.socket()
        try:
            mark.bind(("127.0.0.1", first))
        except OSError:
            mark.close()
            continue
        _marks.append(mark)
        return first
    raise RuntimeError("every span of ports is taken")


_marks: list[socket.socket] = []
