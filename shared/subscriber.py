"""One Redis connection that carries all subscriptions of a process."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

from shared.redis import UNREACHABLE, RedisError
from shared.telemetry import get_logger
from shared.topology.connections import cut
from shared.topology.intake import Intake
from shared.topology.listening import ear

_log = get_logger(__name__)

WATCH_S = 1.0
"""How often to ask whether the server is still the one to listen to: what is published at another is not heard here."""
PING_S = 5.0
SILENT_S = 15.0
"""Not even a pong for this long: the connection is dead, whatever TCP believes."""
BACKOFF_S = (0.05, 0.1, 0.2, 0.5)


class Subscriber:
    """Keeps channels subscribed over lost connections.

    Messages may be lost while a connection is remade: `on_reconnect` is called as soon as all channels are subscribed
    again, and whoever listens must then look for what was missed.
    """

    def __init__(
        self,
        url: str,
        on_message: Callable[[str, bytes], None],
        on_reconnect: Callable[[], None],
        near: str = "",
    ) -> None:
        """`on_message` is told channel and payload; everything else waits until it returns. `near`: a key. In a
        Cluster its server is listened to, so that a failover of that server is noticed here too; without one, any
        server is. Raises ConfigurationError for a URL that is none."""
        self._ear = ear(url, near)
        self._on_message = on_message
        self._on_reconnect = on_reconnect
        self._wanted: dict[str, asyncio.Future[None]] = {}
        self._names: dict[bytes, str] = {}
        """Of the channels wanted, as Redis says them."""
        self._connection: Any = None
        """Meaningful while connected; None between two connections."""
        self.whole = False
        """All channels are heard: the connection stands, and what was wanted when it was made is confirmed."""
        self._unsaid: list[str] = []
        """Channels to subscribe at the end of this turn of the event loop, all by one command."""
        self._saying: set[asyncio.Task[None]] = set()

    async def subscribe(self, channel: str) -> None:
        """Returns once Redis has confirmed, however long that takes: from then on every message arrives, or is
        announced as lost by `on_reconnect`. If this is cancelled the channel stays subscribed: `unsubscribe` it."""
        confirmed = self._wanted.get(channel)
        if confirmed is None:
            confirmed = self._wanted[channel] = asyncio.get_running_loop().create_future()
            self._names[channel.encode()] = channel
            self._unsaid.append(channel)
            if len(self._unsaid) == 1:
                saying = asyncio.create_task(self._say())
                self._saying.add(saying)
                saying.add_done_callback(self._saying.discard)
        await asyncio.shield(confirmed)

    async def unsubscribe(self, channel: str) -> None:
        if (confirmed := self._wanted.pop(channel, None)) is not None:
            confirmed.cancel()
            del self._names[channel.encode()]
            await self._send("UNSUBSCRIBE", channel)

    async def _say(self) -> None:
        channels, self._unsaid = self._unsaid, []
        if still := [channel for channel in channels if channel in self._wanted]:
            await self._send("SUBSCRIBE", *still)

    async def run(self) -> None:
        """Reads until cancelled. A lost connection is remade for ever, with a bounded backoff."""
        failures = 0
        while True:
            try:
                async with contextlib.AsyncExitStack() as stack:
                    intake = await self._connect(stack)
                    failures = 0
                    await intake.over
            except (*UNREACHABLE, RedisError) as error:  # also what Redis answers, such as MISCONF to a ping
                pause = BACKOFF_S[min(failures, len(BACKOFF_S) - 1)]
                failures += 1
                _log.warning("subscription lost", error=str(error), retry_in_s=pause)
                await asyncio.sleep(pause)

    async def aclose(self) -> None:
        await self._ear.aclose()

    # -- inside

    async def _connect(self, stack: contextlib.AsyncExitStack) -> Intake:
        connection = await self._ear.connect()
        stack.push_async_callback(self._disconnect, connection)
        intake = await Intake.of(connection, self._take)
        stack.callback(intake.close)
        for channel, confirmed in self._wanted.items():
            if confirmed.done():
                self._wanted[channel] = asyncio.get_running_loop().create_future()
        self._connection = connection
        stack.enter_context(_background(self._watch(connection, intake)))
        if self._wanted:
            waiting = asyncio.gather(*self._wanted.values(), return_exceptions=True)
            waiting.add_done_callback(self._all_confirmed)
            await connection.send_command("SUBSCRIBE", *self._wanted)
        else:
            self.whole = True
        return intake

    def _all_confirmed(self, waiting: Awaitable[Any]) -> None:
        self.whole = self._connection is not None
        self._on_reconnect()

    async def _disconnect(self, connection: Any) -> None:
        self._connection, self.whole = None, False
        cut(connection)
        await connection.disconnect(nowait=True)

    def _take(self, reply: Any) -> None:
        """One reply: its kind, a channel, and what there is to say. Passed over are pongs, and what was on its way when
        its channel was given up."""
        if not isinstance(reply, list) or len(reply) != 3:
            return
        kind, channel, payload = reply
        name = self._names.get(channel)
        if name is None:
            return
        if kind == b"message":
            self._on_message(name, payload)
        elif kind == b"subscribe" and not (confirmed := self._wanted[name]).done():
            confirmed.set_result(None)

    async def _watch(self, connection: Any, intake: Intake) -> None:
        """Pings, and cuts a connection that is silent or leads to the wrong server, so that the read above fails."""
        loop = asyncio.get_running_loop()
        pinged = loop.time()
        while True:
            await asyncio.sleep(WATCH_S)
            if loop.time() - intake.heard > SILENT_S or await self._moved(connection):
                cut(connection)
                return
            if loop.time() - pinged >= PING_S:
                pinged = loop.time()
                await self._send("PING")

    async def _moved(self, connection: Any) -> bool:
        try:
            return await self._ear.moved(connection)
        except (*UNREACHABLE, RedisError) as error:
            _log.debug("could not ask where to listen", error=str(error))
            return False

    async def _send(self, *command: str) -> None:
        if self._connection is None:
            return  # `_connect` subscribes everything that is wanted
        try:
            await self._connection.send_command(*command)
        except UNREACHABLE as error:
            _log.info("subscription command failed; the reader will reconnect", error=str(error))


@contextlib.contextmanager
def _background(work: Any) -> Any:
    task = asyncio.ensure_future(work)
    try:
        yield task
    finally:
        task.cancel()
