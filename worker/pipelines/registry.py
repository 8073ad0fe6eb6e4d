"""Pipelines by name."""

import importlib
from collections.abc import Awaitable, Callable, Iterable

from shared.errors import ConfigurationError, UnknownPipeline
from worker.pipelines.run import Run

Pipeline = Callable[[Run], Awaitable[None]]
SHIPPED = ("worker.pipelines.chat", "worker.pipelines.research", "worker.pipelines.trip")

_registered: dict[str, Pipeline] = {}


def pipeline(name: str) -> Callable[[Pipeline], Pipeline]:
    """Decorator: registers an async function as the pipeline `name`. The last one of a name counts."""

    def register(function: Pipeline) -> Pipeline:
        _registered[name] = function
        return function

    return register


def load(modules: Iterable[str]) -> None:
    """Import the shipped pipelines, then `modules` (dotted names). Raises ConfigurationError for one that cannot be."""
    for module in (*SHIPPED, *modules):
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigurationError(f"HOLDFAST_PIPELINES: cannot import {module!r}: {error}") from error


def lookup(name: str) -> Pipeline:
    """Raises UnknownPipeline."""
    try:
        return _registered[name]
    except KeyError:
        raise UnknownPipeline(name) from None
