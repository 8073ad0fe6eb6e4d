"""Ports of loopback for servers of the tests."""

import itertools
import os
import socket

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_SPAN = 1000
_next = itertools.count()


def free_port() -> int:
    """One that nobody else will take before it is used.

    Below the range from which the system gives ports away (a server on port 0, the near end of a connection), and apart
    for each process that runs tests.
    """
    while True:
        port = 20_000 + _WORKER * _SPAN + next(_next) % _SPAN
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
