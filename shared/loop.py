"""The event loop of our processes."""

import asyncio
import gc
from collections.abc import Callable


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """uvloop's where there is a wheel for this platform; None, which means asyncio's own, elsewhere."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def settle_memory() -> None:
    """Called once everything is loaded: what is there will stay, so the garbage collector need not look at it again.
    A full collection would otherwise hold the loop up for tens of ms. What comes later is mostly events, which are in
    no circles: it is looked at less often than usual."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
