"""Composition root of a worker process: builds the parts, runs them, hands over on SIGTERM."""

import asyncio
import contextlib
import os
import secrets
import signal
import socket
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any

from pydantic_core import from_json

from shared import jobs, keys
from shared.directory import Directory
from shared.errors import ConfigurationError
from shared.log import Log
from shared.loop import loop_factory, settle_memory
from shared.redis import connect
from shared.settings import Settings
from shared.subscriber import Subscriber
from shared.tasks import cancel
from shared.telemetry import configure, get_logger
from worker import heartbeat, pipelines, queue
from worker.context import WorkerContext
from worker.heartbeat import Contact
from worker.providers.registry import DEFAULT_SOURCES, ModelSource, Providers
from worker.reaper import Reaper

_log = get_logger(__name__)

HAND_OVER_S = 8.0


def new_worker_id() -> str:
    """Unique per process: a worker that restarts must not inherit what its dead self held."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"


def _sources(settings: Settings) -> dict[str, ModelSource]:
    configured = {prefix: ModelSource(**config.model_dump()) for prefix, config in settings.models.items()}
    return {**DEFAULT_SOURCES, **configured}


@contextlib.asynccontextmanager
async def open_context(settings: Settings) -> AsyncIterator[WorkerContext]:
    redis = connect(settings.log_redis_url, connections=settings.redis_connections, timeout_s=settings.redis_timeout_s)
    pool = jobs.open_queue(settings.queue_redis_url, settings.redis_timeout_s, queue.CONNECTIONS)
    providers = Providers.from_settings(settings.idle_timeout_s, models=_sources(settings))
    context = WorkerContext(
        worker_id=new_worker_id(),
        settings=settings,
        log=Log(redis, settings.retention),
        directory=Directory(redis),
        queue=jobs.JobQueue(pool),
        providers=providers,
    )
    try:
        yield context
    finally:
        await providers.aclose()
        await context.queue.aclose()
        await redis.aclose(close_connection_pool=True)


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


async def serve(settings: Settings, stopping: asyncio.Event) -> None:
    """Run a worker until `stopping` is set, then let generations finish, hand over the rest, and return."""
    pipelines.load(settings.pipelines)
    async with open_context(settings) as context:
        context.spawn(context.providers.warm())
        contact = Contact(settings.lease_s, settings.heartbeat_s)
        control = Subscriber(settings.log_redis_url, lambda _, payload: hear(context, payload), contact.broken)
        arq = queue.build_worker(context, context.queue.arq)
        async with _running(heartbeat.beat(context, contact), control.run(), Reaper(context, contact).run()):
            async with _running(_take_jobs(context, contact, control, arq)):
                await stopping.wait()
            await _hand_over(context, arq)
        await context.cancel_background()
        await heartbeat.end(context.directory, context.worker_id)
        await control.aclose()


async def _take_jobs(context: WorkerContext, contact: Contact, control: Subscriber, arq: queue.WakingWorker) -> None:
    """Not before the worker can be reached and its lease is there. Runs until cancelled."""
    await control.subscribe(keys.control(context.worker_id))
    await contact.made.wait()
    _log.info("worker ready", worker=context.worker_id, max_generations=context.settings.worker_jobs)
    await arq.main()


async def _hand_over(context: WorkerContext, arq: queue.WakingWorker) -> None:
    """Generations may finish within the grace time; the rest go back to the queue, for another worker to run."""
    _log.info("worker stopping", generations=len(context.held))
    if await queue.drained(arq, context.settings.worker_grace_s):
        return
    context.release_all()
    if not await queue.drained(arq, HAND_OVER_S):
        _log.error("generations left to the reaper", generations=len(context.held))
        await queue.end_jobs(arq, HAND_OVER_S)


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


async def _main(settings: Settings) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, stopping.set)
    await serve(settings, stopping)


def main() -> None:
    try:
        settings = Settings.load()
    except ConfigurationError as error:
        sys.exit(f"holdfast: {error.message}")
    configure(settings.log_level, settings.log_format)
    settle_memory()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_main(settings))
