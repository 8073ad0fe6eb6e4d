"""What all parts of one worker share, and the generations it holds."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.directory import Directory
from shared.jobs import JobQueue
from shared.log import Log
from shared.outage import Outage
from shared.settings import Settings
from shared.tasks import cancel
from shared.tracing import Tracing
from worker.budget import Budget
from worker.compacting import Compacting
from worker.counts import Counts
from worker.providers.registry import Providers

if TYPE_CHECKING:
    from worker.holding import Holding


@dataclass
class WorkerContext:
    worker_id: str
    """Unique per process, so that a restarted worker is not taken for its dead self."""
    settings: Settings
    log: Log
    directory: Directory
    lease: Directory
    """The same directory over a connection of its own: a lease must not wait for anything else."""
    queue: JobQueue
    providers: Providers
    budget: Budget
    outage: Outage = field(default_factory=lambda: Outage("the log"))
    counts: Counts = field(default_factory=Counts)
    tracing: Tracing = field(default_factory=Tracing)
    redis_errors: Callable[[], Mapping[str, int]] = dict
    """Of all its clients of Redis, by kind."""
    compacting: Compacting = field(default_factory=Compacting)
    held: dict[str, "Holding | None"] = field(default_factory=dict)
    """Token → the generation held by it; None while its claim is under way."""
    leaving: bool = False
    """The worker is stopping: what it holds may end, but what waits for a user goes back to the queue."""
    releasing: bool = False
    """What it holds, and what it still claims, goes back to the queue."""
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    def find(self, sid: str, generation: str) -> "Holding | None":
        """By both: the generation before may still be lingering."""
        wanted = (sid, generation)
        return next((held for held in self.held.values() if held and (held.sid, held.generation) == wanted), None)

    def leave(self) -> None:
        self.leaving = True
        for held in self._working():
            held.leave()

    def release_all(self) -> None:
        self.releasing = True
        for held in self._working():
            held.release()

    def _working(self) -> list["Holding"]:
        return [held for held in self.held.values() if held is not None and not held.over]

    def compact(self, sid: str) -> None:
        """Beside the jobs, when there is time: a generation is over, and nobody will repeat its end."""
        if self.settings.compact:
            self.spawn(self.compacting.compact(self.log, sid))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something to its end beside the jobs; at shutdown it is cancelled."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def cancel_background(self) -> None:
        await cancel(self._background)
