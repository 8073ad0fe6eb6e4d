"""The floor: one process that does nothing but `socket.send` of the same bytes to the same number of sockets.

`python -m tests.bench.peers.floor PORT`: serves readers, and takes a producer's commands on stdin.
"""

import asyncio
import socket
import sys
from collections.abc import Sequence

from shared.loop import loop_factory
from tests.bench.producer import Producer, delta, run

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
EPOCH = 1_795_337_152_950


class Floor:
    """Readers are given to the sessions by their path, `/SID`."""

    def __init__(self, port: int) -> None:
        self._sockets: dict[str, list[socket.socket]] = {}
        self._listening = socket.create_server(("127.0.0.1", port), backlog=4096)
        self._listening.setblocking(False)
        self._accepting: asyncio.Task[None] | None = None

    async def prepare(self, sids: Sequence[str]) -> None:
        self._sockets = {sid: [] for sid in sids}
        self._accepting = asyncio.create_task(self._accept())

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(self._listening)
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if not (asked := await loop.sock_recv(sock, 4096)):
                sock.close()  # it only wanted to know whether somebody listens
                continue
            await loop.sock_sendall(sock, HEAD)
            self._sockets[asked.split(b" ", 2)[1][1:].decode()].append(sock)

    async def say(self, due: Sequence[tuple[str, int]]) -> None:
        for sid, number in due:
            frame = b"event: text.delta\ndata: %b\nid: %d-%d\n\n" % (delta(number), EPOCH, number)
            chunk = b"%x\r\n%b\r\n" % (len(frame), frame)
            for sock in self._sockets[sid]:
                sock.send(chunk)


async def _main(port: int) -> None:
    await run(Producer(Floor(port)))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_main(int(sys.argv[1])))
