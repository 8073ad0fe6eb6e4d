"""Says deltas into sessions at a rate, in the worker's place: `python -m tests.bench.producer KIND ADDRESS`.

Takes commands as lines of JSON on stdin, and answers each with one. Each kind publishes in the way of its peer:
`holdfast` appends with the worker's own code, `stream` adds to a Redis Stream, `nchan` posts to nginx, and `floor`
is told by `floor.py` itself. Like a worker's, what is due is said on a tick that all sessions share.
"""

import asyncio
import json
import sys
import time
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit

import redis.asyncio

from shared.events import EventType, encode
from shared.log import Log, Retention
from shared.loop import loop_factory, settle_memory
from shared.redis import connect

TICK_S = 0.02
"""A worker's. Where the rate is higher than that, every delta has a tick of its own."""
TEXT = "@%d:%d and so on"
AT_ONCE = 50
KEPT = 2000
"""Entries that the peer's stream keeps, more or less."""


def delta(number: int) -> bytes:
    """Data of one `text.delta`: its number in the session, and when it was said."""
    return encode({"text": TEXT % (number, time.time_ns() // 1000)})


class Speaker(Protocol):
    async def prepare(self, sids: Sequence[str]) -> None: ...

    async def say(self, due: Sequence[tuple[str, int]]) -> None:
        """The next delta of each of these sessions, with its number. Returns when all are published."""


class Holdfast:
    def __init__(self, url: str) -> None:
        self._client: Any = connect(url, connections=4, timeout_s=10)
        self.log = Log(self._client, Retention(log_ms=600_000, tombstone_ms=600_000))
        self._epochs: dict[str, int] = {}

    async def prepare(self, sids: Sequence[str]) -> None:
        for first in range(0, len(sids), AT_ONCE):
            await asyncio.gather(*map(self._open, sids[first : first + AT_ONCE]))

    async def _open(self, sid: str) -> None:
        await self.log.create(sid, sid, "body", [{"role": "user", "content": "hello"}], {"principal": "anonymous"})
        claimed = await self.log.claim(sid, f"token-{sid}", "g1", "bench")
        assert claimed is not None
        self._epochs[sid] = claimed.epoch

    async def say(self, due: Sequence[tuple[str, int]]) -> None:
        await asyncio.gather(*(self.append(sid, number, 1) for sid, number in due))

    async def append(self, sid: str, first: int, count: int) -> None:
        batch = [(EventType.TEXT.value, delta(first + n)) for n in range(count)]
        reply = await self.log.append(sid, f"token-{sid}", self._epochs[sid], first + 1, batch)
        assert reply[0] == "OK", reply

    async def end(self, sid: str, number: int) -> None:
        data = encode({"generation": "g1", "finish_reason": "stop"})
        batch = [(EventType.COMPLETED.value, data)]
        reply = await self.log.append(sid, f"token-{sid}", self._epochs[sid], number + 1, batch)
        assert reply[0] == "OK", reply


class Stream:
    def __init__(self, url: str) -> None:
        self._client: Any = redis.asyncio.Redis.from_url(url)

    async def prepare(self, sids: Sequence[str]) -> None:
        await self._client.ping()

    async def say(self, due: Sequence[tuple[str, int]]) -> None:
        async with self._client.pipeline(transaction=False) as pipe:
            for sid, number in due:
                pipe.xadd(sid, {"type": "text.delta", "data": delta(number)}, maxlen=KEPT, approximate=True)
            await pipe.execute()


class Nchan:
    """A few connections that are kept; requests are pipelined."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._connections: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def prepare(self, sids: Sequence[str]) -> None:
        self._connections = [
            await asyncio.open_connection(self._parts.hostname, self._parts.port) for _ in range(min(8, len(sids)))
        ]

    async def say(self, due: Sequence[tuple[str, int]]) -> None:
        ways: list[list[tuple[str, int]]] = [[] for _ in self._connections]
        for sid, number in due:
            ways[hash(sid) % len(ways)].append((sid, number))
        await asyncio.gather(
            *(self._post(*at, asked) for at, asked in zip(self._connections, ways, strict=True) if asked)
        )

    async def _post(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, due: Sequence[tuple[str, int]]
    ) -> None:
        writer.write(b"".join(self._request(sid, delta(number)) for sid, number in due))
        for _ in due:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 20"), head
            at = head.index(b"Content-Length: ") + 16
            await reader.readexactly(int(head[at : head.index(b"\r", at)]))

    @staticmethod
    def _request(sid: str, data: bytes) -> bytes:
        return (
            b"POST /pub/%b HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nAccept: text/json\r\n"
            b"X-EventSource-Event: text.delta\r\nContent-Length: %d\r\n\r\n%b" % (sid.encode(), len(data), data)
        )


KINDS: dict[str, Any] = {"holdfast": Holdfast, "stream": Stream, "nchan": Nchan}


class Producer:
    def __init__(self, speaker: Speaker) -> None:
        self.speaker = speaker
        self.said: dict[str, int] = {}
        """Session → deltas so far."""

    async def do_prepare(self, sids: list[str]) -> dict[str, Any]:
        await self.speaker.prepare(sids)
        self.said = dict.fromkeys(sids, 0)
        return {}

    async def do_say(self, rate: float, seconds: float) -> dict[str, Any]:
        """`rate` deltas per second of each session. `late_ms`: by how much the worst tick was late."""
        tick = min(TICK_S, 1 / rate)
        started, late, base = time.monotonic(), 0.0, dict(self.said)
        phases = {sid: n / len(self.said) for n, sid in enumerate(self.said)}  # they do not speak in step
        for n in range(1, round(seconds / tick) + 1):
            pause = started + n * tick - time.monotonic()
            if pause > 0:
                await asyncio.sleep(pause)
            else:
                late = max(late, -pause)
            spoken = n * tick * rate
            due = [sid for sid, phase in phases.items() if base[sid] + int(spoken + phase + 1e-6) > self.said[sid]]
            for sid in due:
                self.said[sid] += 1
            await self.speaker.say([(sid, self.said[sid]) for sid in due])
        return {"said": list(self.said.values()), "late_ms": late * 1000}

    async def do_write(self, count: int, batch: int) -> dict[str, Any]:
        """`count` deltas into each session as fast as it goes, `batch` in one append."""
        assert isinstance(self.speaker, Holdfast)
        for sid in self.said:
            for first in range(0, count, batch):
                size = min(batch, count - first)
                await self.speaker.append(sid, self.said[sid] + 1, size)
                self.said[sid] += size
        return {"said": list(self.said.values())}

    async def do_end(self) -> dict[str, Any]:
        """Complete the generations."""
        assert isinstance(self.speaker, Holdfast)
        for sid, said in self.said.items():
            await self.speaker.end(sid, said + 1)
        return {}


async def run(producer: Producer) -> None:
    reader = asyncio.StreamReader(limit=1 << 26)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = json.loads(line)
        answer = await getattr(producer, f"do_{command.pop('do')}")(**command)
        print(json.dumps(answer), flush=True)


async def _main(kind: str, url: str) -> None:
    await run(Producer(KINDS[kind](url)))


if __name__ == "__main__":
    settle_memory()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_main(*sys.argv[1:3]))
