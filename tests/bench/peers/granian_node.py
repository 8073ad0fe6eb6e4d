"""A node under granian: `python -m tests.bench.peers.granian_node PORT`, settings from HOLDFAST_*."""

import sys

from granian.constants import HTTPModes, Interfaces, Loops
from granian.log import LogLevels
from granian.server import Server


def main(port: str) -> None:
    Server(
        "api.main:create_app",
        factory=True,
        address="127.0.0.1",
        port=int(port),
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        loop=Loops.uvloop,
        workers=1,
        websockets=True,
        backlog=4096,
        backpressure=20_000,  # requests under way at once: every open stream is one
        log_access=False,
        log_level=LogLevels.warning,
    ).serve()


if __name__ == "__main__":
    main(sys.argv[1])
