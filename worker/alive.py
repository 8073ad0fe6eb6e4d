"""What a worker shows to its machine: a file, for `shared.health` to look at."""

import asyncio
from pathlib import Path

from shared.health import READY, STARTING
from shared.telemetry import get_logger
from worker.heartbeat import Contact

_log = get_logger(__name__)


async def show(file: Path, contact: Contact, every_s: float) -> None:
    """Write the file anew as long as this loop turns, Redis or not. Runs until cancelled; then the file vanishes."""
    failed = False
    try:
        while True:
            try:
                _put(file, READY if contact.made.is_set() else STARTING)
                failed = False
            except OSError as error:
                if not failed:
                    _log.error("cannot say that the worker is alive", file=str(file), error=error.strerror)
                failed = True
            await asyncio.sleep(every_s)
    finally:
        _remove(file)


def _put(file: Path, text: str) -> None:
    """In one step: whoever reads it meanwhile must not find half of it."""
    fresh = file.with_name(f"{file.name}.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(file)


def _remove(file: Path) -> None:
    file.unlink(missing_ok=True)
