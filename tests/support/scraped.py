"""Metrics, as Prometheus reads them."""

import asyncio
from collections.abc import Callable
from typing import Self

import httpx
from prometheus_client.parser import text_string_to_metric_families

WITHIN_S = 20.0


class Scraped:
    """What one process said at one moment."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = {
            (sample.name, frozenset(sample.labels.items())): sample.value
            for family in self.families
            for sample in family.samples
        }

    @classmethod
    async def of(cls, url: str) -> Self:
        """Of a node's URL, or of that of a worker's metrics."""
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.get(f"{url}/metrics")
        assert response.status_code == 200, response.text
        return cls(response.text)

    def value(self, name: str, **labels: str) -> float:
        """Of `holdfast_<name>`; 0 where it was not said, as where something has never happened."""
        return self.samples.get((f"holdfast_{name}", frozenset(labels.items())), 0.0)

    def total(self, name: str) -> float:
        """Over all labels."""
        return sum(value for (of, _), value in self.samples.items() if of == f"holdfast_{name}")

    def labels(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for of, labels in self.samples if of == f"holdfast_{name}"]


async def until(url: str, true: Callable[[Scraped], bool]) -> Scraped:
    """As soon as it holds: what happens beside a request is counted beside it."""
    async with asyncio.timeout(WITHIN_S):
        while not true(found := await Scraped.of(url)):
            await asyncio.sleep(0.02)
        return found
