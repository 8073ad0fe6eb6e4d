"""Composition root of a worker process: builds the parts, runs them, hands over on SIGTERM."""

import asyncio
import contextlib
import logging
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass, field
from typing import Any, NoReturn

from pydantic_core import from_json

from shared import jobs, keys, tracing
from shared.directory import Directory
from shared.errors import ConfigurationError
from shared.log import Log
from shared.loop import loop_factory, settle_memory
from shared.redis import connect
from shared.redis_check import check_servers
from shared.settings import Settings
from shared.subscriber import Subscriber
from shared.tasks import cancel
from shared.telemetry import configure, get_logger
from shared.tracing import Tracing
from worker import alive, heartbeat, pipelines, queue
from worker.budget import Budget
from worker.context import WorkerContext
from worker.heartbeat import Contact
from worker.metrics import WorkerMetrics
from worker.providers.registry import DEFAULT_SOURCES, ModelSource, Providers
from worker.reaper import Reaper

_log = get_logger(__name__)

HAND_OVER_S = 6.0
"""How long generations may take to be handed over; beyond, their jobs are cancelled, and have END_S."""
END_S = 3.0


def new_worker_id() -> str:
    """Unique per process: a worker that restarts must not inherit what its dead self held."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _sources(settings: Settings) -> dict[str, ModelSource]:
    configured = {prefix: ModelSource(**config.model_dump()) for prefix, config in settings.models.items()}
    return {**DEFAULT_SOURCES, **configured}


@contextlib.asynccontextmanager
async def open_context(settings: Settings, worker_id: str = "") -> AsyncIterator[WorkerContext]:
    redis = connect(settings.log_redis_url, connections=settings.redis_connections, timeout_s=settings.redis_timeout_s)
    lease = connect(
        settings.log_redis_url, connections=1, timeout_s=min(settings.redis_timeout_s, settings.lease_s / 4)
    )
    pool = jobs.open_queue(settings.queue_redis_url, settings.redis_timeout_s, queue.CONNECTIONS)
    providers = Providers.from_settings(settings.idle_timeout_s, models=_sources(settings))
    worker_id = worker_id or new_worker_id()
    traces = Tracing.of(settings.traces, "holdfast-worker", worker_id)
    context = WorkerContext(
        worker_id=worker_id,
        settings=settings,
        log=Log(redis, settings.retention),
        directory=Directory(redis),
        lease=Directory(lease),
        queue=jobs.JobQueue(pool),
        providers=providers,
        budget=Budget(settings.worker_output_bytes),
        tracing=traces,
        redis_errors=lambda: redis.errors + lease.errors + context.queue.errors,
    )
    checking = asyncio.create_task(check_servers(redis))
    try:
        yield context
    finally:
        await cancel([checking])
        await providers.aclose()
        await traces.aclose()
        await context.queue.aclose()
        for client in (lease, redis):
            await client.aclose(close_connection_pool=True)


def hear(context: WorkerContext, payload: bytes) -> None:
    """An announcement: `{"session", "generation", "do": "stop" | "answer", …}`. The heartbeat finds what is lost."""
    message = from_json(payload)
    held = context.find(message["session"], message["generation"])
    if held is None:
        return
    if message["do"] == "stop":
        held.stop(message["by"])
    elif message["do"] == "answer":
        held.answer(message["answer"])


@dataclass(frozen=True)
class Stopping:
    """What a worker is told from outside."""

    soon: asyncio.Event = field(default_factory=asyncio.Event)
    """Take no more jobs; what runs may end within the grace time."""
    now: asyncio.Event = field(default_factory=asyncio.Event)
    """Hand over what still runs."""

    def signalled(self) -> None:
        """The first time soon, the second time now."""
        (self.now if self.soon.is_set() else self.soon).set()


async def serve(settings: Settings, stopping: Stopping, worker_id: str = "") -> None:
    """Run a worker until it is to stop, then let generations finish, hand over the rest, and return.

    From then on it takes at most the grace time and about ten seconds, also where Redis is away.
    """
    pipelines.load(settings.pipelines)
    async with open_context(settings, worker_id) as context:
        context.spawn(context.providers.warm())
        contact = Contact(settings.lease_s, settings.heartbeat_s)
        control = Subscriber(
            settings.log_redis_url,
            lambda _, payload: hear(context, payload),
            contact.broken,
            near=keys.worker(context.worker_id),
        )
        arq = queue.build_worker(context, context.queue.arq)
        standing = [heartbeat.beat(context, contact), heartbeat.listen(context), control.run()]
        if settings.health_file is not None:
            standing.append(alive.show(settings.health_file, contact, settings.heartbeat_s))
        metrics = WorkerMetrics(context, contact)
        async with metrics.served(), _running(*standing, metrics.lag.run(), Reaper(context, contact).run()):
            async with _running(_take_jobs(context, contact, control, arq)):
                await stopping.soon.wait()
            giving_back = asyncio.create_task(arq.give_back())
            await _hand_over(context, arq, stopping.now)
            await giving_back
        await context.cancel_background()
        await heartbeat.end(context)
        await control.aclose()


async def _take_jobs(context: WorkerContext, contact: Contact, control: Subscriber, arq: queue.WakingWorker) -> None:
    """Not before the worker can be reached and its lease is there. Runs until cancelled."""
    await control.subscribe(keys.control(context.worker_id))
    await contact.made.wait()
    _log.info("worker ready", worker=context.worker_id, max_generations=context.settings.worker_jobs)
    await arq.main()


async def _hand_over(context: WorkerContext, arq: queue.WakingWorker, now: asyncio.Event) -> None:
    """Generations may finish within the grace time; the rest go back to the queue, for another worker to run. Those
    that wait for their users go at once: their time may be long."""
    _log.info("worker stopping", generations=len(context.held))
    context.leave()
    if await queue.drained(arq, context.settings.worker_grace_s, now):
        return
    context.release_all()
    if not await queue.drained(arq, HAND_OVER_S):
        _log.error("generations left to the reaper", generations=len(context.held))
        await queue.end_jobs(arq, END_S)


@contextlib.asynccontextmanager
async def _running(*work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Run tasks beside the block. None of them ends by itself: one that does takes the process down, loudly."""
    tasks = [asyncio.create_task(one) for one in work]
    owner = asyncio.current_task()
    ended: list[BaseException] = []

    def over(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and owner is not None:
            ended.append(task.exception() or RuntimeError(f"{task.get_coro()} ended"))
            owner.cancel()

    for task in tasks:
        task.add_done_callback(over)
    try:
        yield
    except asyncio.CancelledError:
        if ended:
            raise RuntimeError("a part of the worker ended") from ended[0]
        raise
    finally:
        for task in tasks:
            task.remove_done_callback(over)
        await cancel(tasks)


async def _main(settings: Settings, worker_id: str) -> None:
    stopping = Stopping()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.signalled)
    await serve(settings, stopping, worker_id)


def main() -> None:
    try:
        settings = Settings.load()
        tracing.check(settings.traces)
    except ConfigurationError as error:
        sys.exit(f"holdfast: {error.message}")
    worker_id = new_worker_id()
    configure(settings.log_level, settings.log_format, content=settings.log_content, worker=worker_id)
    settle_memory()
    _exit(_run(settings, worker_id))


def _run(settings: Settings, worker_id: str) -> int:
    try:
        asyncio.Runner(loop_factory=loop_factory()).run(_main(settings, worker_id))
    except Exception:  # noqa: BLE001 - the end of the process: it is said, and there is nobody to raise it to
        _log.exception("worker failed")
        return 1
    return 0


def _exit(status: int) -> NoReturn:
    """All that can be ended has been. Pipelines that do not let themselves be cancelled, and tools that block a thread,
    must not keep the process: Python would wait for them."""
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
