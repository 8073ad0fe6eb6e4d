"""What all parts of one worker share, and the generations it holds."""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from shared.directory import Directory
from shared.jobs import JobQueue
from shared.log import Log
from shared.settings import Settings
from shared.tasks import cancel
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
    queue: JobQueue
    providers: Providers
    held: dict[str, "Holding | None"] = field(default_factory=dict)
    """Token → the generation held by it; None while its claim is under way."""
    releasing: bool = False
    """The worker is stopping: what it holds, and what it still claims, goes back to the queue."""
    _background: set[asyncio.Task[None]] = field(default_factory=set)

    def find(self, sid: str, generation: str) -> "Holding | None":
        """By both: the generation before may still be lingering."""
        wanted = (sid, generation)
        return next((held for held in self.held.values() if held and (held.sid, held.generation) == wanted), None)

    def release_all(self) -> None:
        self.releasing = True
        for held in list(self.held.values()):
            if held is not None and not held.over:
                held.release()

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Run something to its end beside the jobs; at shutdown it is cancelled."""
        task = asyncio.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def cancel_background(self) -> None:
        await cancel(self._background)
