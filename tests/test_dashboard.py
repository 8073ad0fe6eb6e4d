"""The dashboard and the alerts ask for what nodes and workers say, in PromQL that is PromQL."""

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import promql_parser
import pytest
import pytest_asyncio
import yaml

from tests.support.inprocess import live_node, live_worker
from tests.support.ports import free_port
from tests.support.scraped import Scraped, until
from tests.support.sse import read_all
from tests.support.system import ROOT, create

DEPLOY = ROOT / "deploy"
DASHBOARD = DEPLOY / "grafana" / "holdfast.json"
ALERTS = DEPLOY / "prometheus" / "alerts.yml"
SCRAPING = DEPLOY / "prometheus" / "prometheus.yml"
WINDOW = {"$__rate_interval": "1m"}
OF_PROMETHEUS = frozenset({"up"})
WATCHED = {
    "HoldfastNodeNotReady", "HoldfastNoWorker", "HoldfastQueueWait", "HoldfastTakeovers", "HoldfastGenerationsFail",
    "HoldfastRedisErrors", "HoldfastDeliveryLag", "HoldfastGaps", "HoldfastLoopLag", "HoldfastMemory",
}  # fmt: skip


def _panels() -> list[dict[str, Any]]:
    panels: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return panels


def _rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(ALERTS.read_text(encoding="utf-8"))["groups"] for rule in group["rules"]]


def _expressions() -> list[str]:
    """All of them, with what Grafana puts in."""
    asked = [target["expr"] for panel in _panels() for target in panel.get("targets", [])]
    asked += [rule["expr"] for rule in _rules()]
    for name, value in WINDOW.items():
        asked = [expression.replace(name, value) for expression in asked]
    return asked


def _selectors(node: Any) -> Iterator[Any]:
    """Every selection of a metric in an expression."""
    if isinstance(node, promql_parser.VectorSelector):
        yield node
    for name in ("expr", "lhs", "rhs", "vector_selector", "vs", "param"):
        if (part := getattr(node, name, None)) is not None:
            yield from _selectors(part)
    for part in getattr(node, "args", None) or []:
        yield from _selectors(part)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def there(module_redis_url: str) -> AsyncIterator[set[str]]:
    """Names of all metrics that a node or a worker says."""
    port = free_port()
    async with live_node(module_redis_url) as node, live_worker(module_redis_url, metrics_port=port):
        sid = await create(node.url, model="demo/echo")
        await read_all(node.url, sid)
        worker = await until(f"http://127.0.0.1:{port}", lambda found: found.total("generations_total") == 1)
        found: set[str] = set()
        for side in (await Scraped.of(node.url), worker):
            for family in side.families:
                total = [f"{family.name}_total"] if family.type == "counter" else []  # also one that was never counted
                found |= {*(total or [family.name]), *(sample.name for sample in family.samples)}
        yield found


@pytest.mark.asyncio(loop_scope="module")
async def test_every_metric_that_is_asked_for_is_there(there: set[str]) -> None:
    """A name that no process says is a panel that stays empty, or an alert that never comes."""
    asked = {selector.name for text in _expressions() for selector in _selectors(promql_parser.parse(text))}
    assert len(asked) > 30
    assert asked - there - OF_PROMETHEUS == set()


@pytest.mark.asyncio(loop_scope="module")
async def test_every_metric_of_ours_is_shown_or_watched(there: set[str]) -> None:
    """What is measured is to be seen: all but what a process says of itself besides."""
    asked = {selector.name for text in _expressions() for selector in _selectors(promql_parser.parse(text))}
    families = {name.removesuffix("_bucket").removesuffix("_count").removesuffix("_sum") for name in there}
    seen = {name.removesuffix("_bucket") for name in asked}
    unseen = {name for name in families - seen if not name.startswith("holdfast_process_")}
    assert unseen == set()


@pytest.mark.parametrize("expression", sorted(set(_expressions())))
def test_each_expression_is_promql(expression: str) -> None:
    """Parsed by a parser of the language: a typing error is found here and not at night."""
    assert promql_parser.parse(expression) is not None
    assert "$__" not in expression


def test_what_is_not_promql_is_refused() -> None:
    """The parser that the others rely on does refuse."""
    with pytest.raises(ValueError):  # noqa: PT011 - its words are its own
        promql_parser.parse("sum(rate(holdfast_gaps_total[5m])")


def test_every_alert_says_what_to_do() -> None:
    """There is one for each thing that must be noticed; it has a severity, and words for who is woken up."""
    rules = _rules()
    assert {rule["alert"] for rule in rules} == WATCHED
    for rule in rules:
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"].endswith(".")


def test_the_jobs_that_alerts_name_are_scraped() -> None:
    """An alert about a job that has another name in the configuration would fire for ever, or never."""
    scraped = yaml.safe_load(SCRAPING.read_text(encoding="utf-8"))
    jobs = {job["job_name"] for job in scraped["scrape_configs"]}
    named = {
        matcher.value
        for rule in _rules()
        for selector in _selectors(promql_parser.parse(rule["expr"]))
        for matcher in selector.matchers.matchers
        if matcher.name == "job"
    }
    assert named == jobs
    assert scraped["rule_files"] == [ALERTS.name]


def test_panels_have_a_place_of_their_own() -> None:
    """Each says what it shows, and none lies over another or beyond the edge."""
    taken: dict[tuple[int, int], int] = {}
    ids = [panel["id"] for panel in _panels()]
    assert len(ids) == len(set(ids))
    for panel in _panels():
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        assert panel["type"] == "row" or panel["description"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), panel["id"]) == panel["id"]
