"""The load generator: many SSE clients in one process, which do as little as they can.

A program of its own: `python -m tests.bench.load` takes commands as lines of JSON on stdin, and answers each with one.
Every delta of every peer has exactly one `@` in its text, and nothing else that is sent has one: so what was delivered
can be counted without a look at frames, also where a server joins deltas. A few readers, the samples, are read as soon
as there is something, and looked at closely: when each delta arrived, and whether it is the one after the last. All
others are read in sweeps: what they are sent lies in the kernel meanwhile, as in that of a client far away.
"""

import json
import os
import re
import select
import socket
import sys
import time
from collections.abc import Iterator
from typing import Any

SWEEP_S = 0.05
MARK = b"@"
DELTA = re.compile(rb"@(\d+):(\d+) ")
"""Number of the delta in its session, and when it was said: µs since 1970."""
PIECE = 1 << 18
UNFINISHED = 200
"""Bytes that are kept of what was read, for a delta or a head that is not complete yet; more than either has."""


class Reader:
    """One connection. `opened` once the head, and what else was waited for, has come."""

    __slots__ = ("after", "cursor", "done", "heard", "opened", "request", "sample", "sock", "tail", "total")

    def __init__(self, request: str, sample: bool) -> None:
        self.request = request
        self.sample = sample
        self.total = 0
        self.heard = 0
        """Number of the newest delta; meaningful for samples."""
        self.cursor = b""
        self.tail = b""
        self.opened = False
        self.done = 0.0
        """When it had all it was to have; 0: not yet."""
        self.sock: socket.socket


class Load:
    def __init__(self) -> None:
        self.readers: list[Reader] = []
        self.buffer = bytearray(PIECE)
        self.latencies: list[float] = []
        self.broken = 0
        """Deltas of samples that were not the one after the last."""
        self.fast, self.slow = select.epoll(), select.epoll()
        self.by_fd: dict[int, Reader] = {}
        self.address = ("", 0)
        self.until = b"\r\n\r\n"
        self.track = False
        """Every reader is read at once, keeps its cursor, and comes back where it is cut off."""
        self.goal = 0

    # -- connections

    def connect(self, reader: Reader, rcvbuf: int = 0) -> None:
        sock = socket.socket()
        if rcvbuf:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        sock.connect(self.address)  # on loopback it is there at once, or not at all
        sock.setblocking(False)
        cursor = b"Last-Event-ID: %b\r\n" % reader.cursor if reader.cursor else b""
        sock.send(
            b"GET %b HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n%b\r\n"
            % (reader.request.encode(), cursor)
        )
        reader.sock, reader.tail, reader.opened = sock, b"", False
        self.by_fd[sock.fileno()] = reader
        self.fast.register(sock, select.EPOLLIN)

    def read(self, fd: int) -> None:
        reader = self.by_fd[fd]
        try:
            size = reader.sock.recv_into(self.buffer)
        except BlockingIOError:
            return
        except ConnectionError:
            size = 0
        if not size:
            self.lost(reader)
        elif reader.opened and not reader.sample and not self.track:
            reader.total += self.buffer.count(MARK, 0, size)
        else:
            self.look(reader, bytes(self.buffer[:size]))

    def lost(self, reader: Reader) -> None:
        del self.by_fd[reader.sock.fileno()]
        reader.sock.close()
        if self.track:
            self.connect(reader)

    def look(self, reader: Reader, data: bytes) -> None:
        reader.total += data.count(MARK)
        whole = reader.tail + data
        if not reader.opened:
            if self.until not in whole:
                reader.tail = whole
                return
            if not whole.startswith(b"HTTP/1.1 200"):
                raise RuntimeError(f"refused: {whole[:200]!r}")
            self.open(reader)
        if self.track:
            self.follow(reader, whole)
        elif reader.sample:
            self.sample(reader, whole)

    def open(self, reader: Reader) -> None:
        reader.opened = True
        if not (reader.sample or self.track):
            self.fast.unregister(reader.sock)
            self.slow.register(reader.sock, select.EPOLLIN)

    def sample(self, reader: Reader, data: bytes) -> None:
        now, end = time.time() * 1e3, 0
        for found in DELTA.finditer(data):
            number, end = int(found[1]), found.end()
            self.broken += reader.heard > 0 and number != reader.heard + 1
            reader.heard = number
            self.latencies.append(now - int(found[2]) / 1e3)
        reader.tail = data[max(end, len(data) - UNFINISHED) :]

    def follow(self, reader: Reader, data: bytes) -> None:
        """Keep the id of the last whole event."""
        end = data.rfind(b"\n\n") + 2
        if end >= 2:
            start = data.rfind(b"id: ", 0, end)
            if start >= 0:
                reader.cursor = data[start + 4 : data.index(b"\n", start)]
        reader.tail = data[max(end, 0) if end >= 2 else 0 :]
        if not reader.done and reader.total >= self.goal > 0:
            reader.done = time.monotonic()

    # -- the loop

    def turn(self, wait_s: float) -> bool:
        """Read what is there; whether a command waits."""
        command = False
        for fd, _ in self.fast.poll(wait_s, 512):
            if fd == 0:
                command = True
            else:
                self.read(fd)
        return command

    def sweep(self) -> None:
        while ready := self.slow.poll(0, 4096):
            for fd, _ in ready:
                self.read(fd)
            if len(ready) < 4096:
                return

    def run(self, commands: Iterator[dict[str, Any]]) -> None:
        self.fast.register(0, select.EPOLLIN)
        due = time.monotonic() + SWEEP_S
        while True:
            if self.turn(max(0.0, due - time.monotonic())):
                command = next(commands, None)
                if command is None:
                    return
                answer = getattr(self, f"do_{command.pop('do')}")(**command)
                print(json.dumps(answer), flush=True)
            if time.monotonic() >= due:
                self.sweep()
                due = time.monotonic() + SWEEP_S

    # -- commands

    def do_open(
        self, address: tuple[str, int], requests: list[str], samples: int = 0, until: str = "", at_once: int = 50,
        timeout: float = 60.0, rcvbuf: int = 0,
    ) -> dict[str, Any]:  # fmt: skip
        """Connect a reader per request, `at_once` of them at the same time. Returns when all have their head, and
        `until` if it is given; `seconds`: how long that took."""
        self.address, self.until = (address[0], address[1]), until.encode() or b"\r\n\r\n"
        started, step = time.monotonic(), max(1, len(requests) // max(1, samples))
        waiting = [Reader(request, samples > 0 and n % step == 0) for n, request in enumerate(requests)]
        coming: list[Reader] = []
        self.readers += waiting
        waiting.reverse()
        while waiting or coming:
            while waiting and len(coming) < at_once:
                coming.append(waiting.pop())
                self.connect(coming[-1], rcvbuf)
            self.wait()
            coming = [reader for reader in coming if not reader.opened]
            if time.monotonic() - started > timeout:
                raise TimeoutError(f"{len(coming)} did not open, such as {coming[0].request}: {coming[0].tail!r}")
        return {"seconds": time.monotonic() - started}

    def wait(self) -> None:
        """A turn while a command is carried out: the next one is left where it is."""
        self.fast.modify(0, 0)
        self.turn(0.01)
        self.fast.modify(0, select.EPOLLIN)

    def do_stall(self) -> dict[str, Any]:
        """From now on nobody reads."""
        for reader in self.readers:
            self.slow.unregister(reader.sock)
        return {}

    def do_read(self) -> dict[str, Any]:
        """They read again."""
        for reader in self.readers:
            self.slow.register(reader.sock, select.EPOLLIN)
        return {}

    def do_mark(self) -> dict[str, Any]:
        """What was delivered so far, in all; and this process' own CPU seconds."""
        self.sweep()
        return {"total": sum(reader.total for reader in self.readers), "cpu": time.process_time()}

    def do_samples(self) -> dict[str, Any]:
        """ms from saying to reading, since the last time this was asked."""
        taken, self.latencies = self.latencies, []
        return {"ms": taken, "broken": self.broken}

    def do_reach(self, counts: list[int], timeout: float) -> dict[str, Any]:
        """Wait until every reader has its count, or for the time; `missing` and `extra` of all of them together."""
        deadline = time.monotonic() + timeout
        while True:
            self.wait()
            self.sweep()
            short = [n for n, reader in zip(counts, self.readers, strict=True) if reader.total < n]
            if not short or time.monotonic() > deadline:
                break
        pairs = list(zip(counts, self.readers, strict=True))
        return {
            "missing": sum(max(0, n - reader.total) for n, reader in pairs),
            "extra": sum(max(0, reader.total - n) for n, reader in pairs),
            "gone": len(self.readers) - len(self.by_fd),
        }

    def do_watch(self) -> dict[str, Any]:
        """Readers that are opened from now on are read at once, keep their cursor, and come back when cut off."""
        self.track = True
        return {}

    def do_resume(self, address: tuple[str, int], goal: int, timeout: float) -> dict[str, Any]:
        """Readers that are cut off from now on come back at `address`; monotonic times when each had `goal` deltas."""
        self.address, self.until, self.goal = (address[0], address[1]), b"\r\n\r\n", goal
        print(json.dumps({"ready": True}), flush=True)
        deadline = time.monotonic() + timeout
        while any(not reader.done for reader in self.readers) and time.monotonic() < deadline:
            self.wait()
        return {"at": [reader.done for reader in self.readers], "totals": [reader.total for reader in self.readers]}

    def do_close(self) -> dict[str, Any]:
        for reader in self.by_fd.values():
            reader.sock.close()
        self.readers, self.by_fd, self.track = [], {}, False
        return {}


def main() -> None:
    os.set_blocking(0, True)
    lines = iter(sys.stdin.readline, "")
    Load().run(json.loads(line) for line in lines)


if __name__ == "__main__":
    main()
