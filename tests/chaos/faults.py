"""What goes wrong, drawn by a seed: the same seed, the same faults in the same order."""

import asyncio
import contextlib
import random
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

import psutil
import redis

from tests.chaos.world import DRAIN_S, GRACE_S, LEASE_S, World
from tests.support.system import Process

YOUNG_S = 10.0
"""A process that was started so recently may not listen to signals yet, and dies of them."""
LEAVES_S = 15.0
"""On top of its own time: a process that needs longer to leave hangs."""

Act = Callable[[World, random.Random], Awaitable[None]]


class Target(Enum):
    """What a fault hits. No two faults hit the same at once: one would undo the other."""

    WORKER = "worker"
    NODE = "node"
    NGINX = "nginx"
    READERS = "readers"
    REDIS = "redis"


KINDS: dict[str, tuple[Target, Act]] = {}


class Misbehaved(Exception):
    """A process did not take a fault as it should."""


@dataclass(frozen=True)
class Fault:
    number: int
    kind: str
    seed: str

    @property
    def target(self) -> Target:
        return KINDS[self.kind][0]

    @property
    def victim(self) -> str:
        """The name of its lock."""
        return f"{self.target.value} {_which(random.Random(self.seed))}"

    async def happen(self, world: World) -> None:
        """Returns when what was broken is there again. Raises Misbehaved."""
        await KINDS[self.kind][1](world, random.Random(self.seed))


def drawn(seed: int, count: int, only: str = "") -> list[Fault]:
    """All kinds equally often, in random order; `only` those with this in their names."""
    rng = random.Random(seed)
    wanted = [name for name in KINDS if only in name]
    kinds: list[str] = []
    while len(kinds) < count:
        kinds += rng.sample(wanted, len(wanted))
    return [Fault(n, kind, f"{seed}/{n}") for n, kind in enumerate(kinds[:count])]


def kind(target: Target, what: str) -> Callable[[Act], Act]:
    def register(act: Act) -> Act:
        KINDS[f"{target.value}: {what}"] = (target, act)
        return act

    return register


def _which(rng: random.Random) -> int:
    """Of the two workers, or of the two nodes; always the first that is drawn."""
    return rng.randrange(2)


async def _replaced(process: Process, leaves_s: float, who: str) -> None:
    """Told to go, and started again. Raises Misbehaved where it does not go, or not cleanly."""
    young = time.time() - psutil.Process(process.pid).create_time() < YOUNG_S
    process.signal(signal.SIGTERM)
    try:
        status = await process.ended(leaves_s + LEAVES_S)
        if status != 0 and not (young and status == -signal.SIGTERM):
            raise Misbehaved(f"{who} left with status {status}")
    except subprocess.TimeoutExpired:
        await process.kill()
        raise Misbehaved(f"{who} did not leave") from None
    finally:
        process.start()


# -- workers


@kind(Target.WORKER, "kill -9")
async def kill_worker(world: World, rng: random.Random) -> None:
    worker = world.workers[_which(rng)]
    await worker.kill()
    await asyncio.sleep(rng.uniform(0, 1))
    worker.start()


@kind(Target.WORKER, "paused for longer than its lease")
async def pause_worker(world: World, rng: random.Random) -> None:
    worker = world.workers[_which(rng)]
    worker.signal(signal.SIGSTOP)
    await asyncio.sleep(LEASE_S * rng.uniform(1.2, 2.2))
    worker.signal(signal.SIGCONT)


@kind(Target.WORKER, "SIGTERM, started again")
async def replace_worker(world: World, rng: random.Random) -> None:
    await _replaced(world.workers[_which(rng)], GRACE_S, "a worker")


# -- nodes


@kind(Target.NODE, "kill -9")
async def kill_node(world: World, rng: random.Random) -> None:
    node = world.nodes[_which(rng)]
    await node.kill()
    await asyncio.sleep(rng.uniform(0, 1))
    node.start()


@kind(Target.NODE, "SIGTERM, started again")
async def replace_node(world: World, rng: random.Random) -> None:
    await _replaced(world.nodes[_which(rng)], DRAIN_S, "a node")


@kind(Target.NODE, "paused")
async def pause_node(world: World, rng: random.Random) -> None:
    node = world.nodes[_which(rng)]
    node.signal(signal.SIGSTOP)
    await asyncio.sleep(rng.uniform(0.3, 3))
    node.signal(signal.SIGCONT)


@kind(Target.NGINX, "reload")
async def reload_nginx(world: World, rng: random.Random) -> None:
    world.front.reload()


# -- readers


@kind(Target.READERS, "a third of the connections reset")
async def reset_readers(world: World, rng: random.Random) -> None:
    for reader in list(world.readers):
        if reader.sever and rng.random() < 1 / 3:
            reader.sever()


@kind(Target.READERS, "all of them gone at once")
async def reset_all_readers(world: World, rng: random.Random) -> None:
    for reader in list(world.readers):
        if reader.sever:
            reader.sever()


# -- Redis


@kind(Target.REDIS, "SIGTERM, started again")
async def restart_redis(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.redis.stop)
    await asyncio.sleep(rng.uniform(0, 1.5))
    await asyncio.to_thread(world.redis.start)


@kind(Target.REDIS, "kill -9, started again")
async def kill_redis(world: World, rng: random.Random) -> None:
    await asyncio.to_thread(world.redis.kill)
    await asyncio.sleep(rng.uniform(0, 1.5))
    await asyncio.to_thread(world.redis.start)


@kind(Target.REDIS, "paused for 1 to 5 s")
async def pause_redis(world: World, rng: random.Random) -> None:
    world.redis.pause()
    await asyncio.sleep(rng.uniform(1, 5))
    world.redis.resume()


async def _ask(world: World, *command: str | int) -> None:
    """The connection itself may be among those that are cut."""
    with contextlib.suppress(redis.exceptions.ConnectionError):
        await asyncio.to_thread(world.redis.ask, *command)


@kind(Target.REDIS, "subscriptions cut")
async def cut_subscriptions(world: World, rng: random.Random) -> None:
    await _ask(world, "CLIENT", "KILL", "TYPE", "pubsub")


@kind(Target.REDIS, "connections cut")
async def cut_connections(world: World, rng: random.Random) -> None:
    await _ask(world, "CLIENT", "KILL", "TYPE", "normal")


@kind(Target.REDIS, "holds all commands")
async def hold(world: World, rng: random.Random) -> None:
    length_s = rng.uniform(0.5, 3)
    await _ask(world, "CLIENT", "PAUSE", int(length_s * 1000), rng.choice(["ALL", "WRITE"]))
    await asyncio.sleep(length_s)


@kind(Target.REDIS, "out of memory")
async def fill(world: World, rng: random.Random) -> None:
    await _ask(world, "CONFIG", "SET", "maxmemory", 1)
    await asyncio.sleep(rng.uniform(0.3, 3))
    await _ask(world, "CONFIG", "SET", "maxmemory", 0)


@kind(Target.REDIS, "scripts forgotten")
async def forget_scripts(world: World, rng: random.Random) -> None:
    await _ask(world, "SCRIPT", "FLUSH")
