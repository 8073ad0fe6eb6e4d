"""A model provider that costs next to nothing: OpenAI's Chat Completions and Anthropic's Messages, from prepared bytes.

`python -m tests.bench.model_server PORT`. What a request is answered is in its last message: `{"chunks": n, "rate": r}`
with r chunks per second, 0 for as fast as possible. Each chunk is sent at its own absolute deadline, whether the
ones before were read or not. The first word of an answer is when it began, in ms since 1970.
"""

import asyncio
import contextlib
import json
import random
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

from shared.loop import loop_factory
from tests.support.ports import free_port
from tests.support.system import ROOT
from tests.upstream_frames import MessagesWire, block
from worker.providers.base import Usage

WORD = " holdfast"
READY_S = 10.0
_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_USAGE = Usage(10, 10)


@dataclass(frozen=True)
class Script:
    """An answer as pieces of the wire."""

    opening: bytes
    word: bytes
    ending: bytes


def plan(chunks: int, rate: float) -> str:
    """What to say to the model, to be answered so."""
    return json.dumps({"chunks": chunks, "rate": rate})


def _chat(now_ms: int) -> Script:
    def chunk(delta: dict[str, str], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        return block({**_CHAT, "choices": [choice], "usage": None, "obfuscation": "k7Jw"})

    usage = {"prompt_tokens": 10, "completion_tokens": 10, "total_tokens": 20}
    end = chunk({}, "stop") + block({**_CHAT, "choices": [], "usage": usage}) + b"data: [DONE]\n\n"
    return Script(chunk({"role": "assistant", "content": str(now_ms)}), chunk({"content": WORD}), end)


_CHAT = {
    "id": "chatcmpl-CX1b2C3d4E5f6G7h8I9j0KlMnOpQr", "object": "chat.completion.chunk", "created": 1795337152,
    "model": "gpt-4o-2024-08-06", "service_tier": "default", "system_fingerprint": "fp_1a2b3c4d5e",
}  # fmt: skip


def _messages(now_ms: int) -> Script:
    wire = MessagesWire()

    def delta(text: str) -> bytes:
        return wire.frame("content_block_delta", index=0, delta={"type": "text_delta", "text": text})

    start = wire.frame("content_block_start", index=0, content_block={"type": "text", "text": ""})
    end = wire.frame("content_block_stop", index=0) + wire.delta("end_turn", _USAGE) + wire.frame("message_stop")
    return Script(wire.start(_USAGE) + start + delta(str(now_ms)), delta(WORD), end)


def _framed(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Connection(asyncio.Protocol):
    """One connection of a client; answers one request after the other."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class
        self._received = b""

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, rest = self._received.partition(b"\r\n\r\n")
        lines = head.decode("latin-1").lower().split("\r\n")
        length = next((int(line[16:]) for line in lines if line.startswith("content-length: ")), 0)
        if end and len(rest) >= length:
            self._received = rest[length:]
            _Answer(self._transport, "/messages" in lines[0], json.loads(rest[:length]))


class _Answer:
    def __init__(self, transport: asyncio.Transport, anthropic: bool, body: dict[str, Any]) -> None:
        self._loop = asyncio.get_running_loop()
        self._transport = transport
        asked = json.loads(_text(body["messages"][-1]["content"]))
        self._left, self._rate = int(asked["chunks"]) - 1, float(asked["rate"])
        script = (_messages if anthropic else _chat)(time.time_ns() // 1_000_000)
        self._word, self._ending = _framed(script.word), _framed(script.ending) + b"0\r\n\r\n"
        transport.write(_HEAD + _framed(script.opening))
        if self._rate:  # answers that began together do not stay in step
            self._due = self._loop.time() - random.random() / self._rate
            self._wait()
        else:
            transport.write(self._word * self._left + self._ending)

    def _wait(self) -> None:
        self._due += 1 / self._rate
        self._loop.call_at(self._due, self._say)

    def _say(self) -> None:
        if self._transport.is_closing():
            return
        self._left -= 1
        self._transport.write(self._word)
        if self._left > 0:
            self._wait()
        else:
            self._transport.write(self._ending)


def _text(content: str | Sequence[dict[str, str]]) -> str:
    return content if isinstance(content, str) else content[-1]["text"]


@contextlib.asynccontextmanager
async def model_server() -> AsyncIterator[str]:
    """Run it in a process of its own until the block ends; gives its base URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "tests.bench.model_server", str(port)], cwd=ROOT)
    try:
        await _listening(port)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def _listening(port: int) -> None:
    async with asyncio.timeout(READY_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except ConnectionError:
                await asyncio.sleep(0.02)
                continue
            writer.close()
            return


async def _main(port: int) -> None:
    server = await asyncio.get_running_loop().create_server(_Connection, "127.0.0.1", port, backlog=1024)
    await server.serve_forever()


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_main(int(sys.argv[1])))
