"""The benchmarks run, and would notice what they are there to notice: a small round of two scenarios."""

import asyncio
import math
import os
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.bench import fan_out
from tests.bench.__main__ import main
from tests.bench.delivery import Run, Shape, Window, measure
from tests.bench.load import Load, Reader
from tests.bench.scale import Scale
from tests.bench.targets import Floor, Holdfast, Target, Unavailable

TINY = Scale(share=0.01, seconds=0.5, rounds=1)


class Absent(Floor):
    name = "a peer that is not here"

    def check(self) -> None:
        raise Unavailable("nobody has it")


def cells(text: str, server: str) -> list[str]:
    line = next(line for line in text.splitlines() if line.startswith(f"| {server} |"))
    return [cell.strip() for cell in line.strip("|").split("|")]


async def test_every_reader_gets_every_delta_and_its_cost_is_told() -> None:
    """A node and the floor take turns; both deliver everything, once and in order, and took CPU for it."""
    shape = Shape(sessions=2, readers=15, rate=20)  # of the readers, five of each session are samples
    runs, absent = await measure([Holdfast, Floor], shape, TINY)
    assert not absent
    for run in runs.values():
        assert sum(run.said) > 0
        assert (run.missing, run.extra, run.broken) == (0, 0, 0)
        assert run.windows[0].node_us > 0
        assert len(run.latencies) == sum(run.said) * 5


class Mortal(Floor):
    name = "a peer that dies"

    async def start(self, stack: AsyncExitStack) -> None:
        await super().start(stack)
        asyncio.get_running_loop().call_later(1.0, os.kill, self.producer.pid, signal.SIGKILL)


async def test_a_peer_that_falls_over_is_named_and_the_others_go_on() -> None:
    """What a peer cannot carry is a result: the table says so."""
    runs, fallen = await measure([Holdfast, Mortal], Shape(1, 2, 20), Scale(1, 1.0, 2))
    assert fallen == {Mortal.name: "fell over at 20 events/s for each of its readers"}
    assert [len(run.windows) for run in runs.values()] == [2]


async def test_an_absent_peer_is_named_with_the_reason() -> None:
    """A peer that cannot be had stays in the table, and says why it has no figures."""
    runs, absent = await measure([Holdfast, Absent], Shape(1, 1, 20), TINY)
    text = fan_out.section_of("Fan-out", Shape(1, 1, 20), runs, absent, {Absent: 1.0}).text()
    assert cells(text, Absent.name)[1] == "not available here: nobody has it"
    assert "NOT MEASURED: a peer that is not here" in text


def test_a_sample_notices_what_is_missing_doubled_or_out_of_order() -> None:
    """Deltas of a session are numbered; one that is cut in two by the network is read when it is whole."""
    load, reader = Load(), Reader("/", sample=True)
    load.sample(reader, b'{"text":"@1:1000 and so on"} {"text":"@2:10')
    load.sample(reader, reader.tail[reader.tail.index(b"@2") :] + b'00 and so on"}')
    assert (load.broken, len(load.latencies)) == (0, 2)
    load.sample(reader, b"@4:1000 @4:1000 @5:1000 ")
    assert load.broken == 2


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    """Each round's ratio counts once, however slow the machine was meanwhile."""

    def run(*costs: float) -> Run:
        return Run(Floor(), [Window(1, cost, 0, 0, 0, 0, 0) for cost in costs])

    assert fan_out.ratio(run(10, 40, 3), run(20, 40, 4)) == 0.75
    assert fan_out.ratio(run(10, 7), run(20, 0)) == 0.5
    assert math.isnan(fan_out.ratio(run(0), run(0)))


def test_the_command_writes_the_tables_of_the_scenarios_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two scenarios, as `python -m tests.bench --quick` runs them."""
    peers: list[type[Target]] = [Holdfast, Floor]
    monkeypatch.setattr(fan_out, "PEERS", peers)
    monkeypatch.setattr("tests.bench.__main__.configure", lambda *_: None)  # of this process: other tests hear its logs
    results = tmp_path / "results.md"
    assert main(["--quick", "--results", str(results), "fanout", "storm"], quick=TINY) == 0
    text = results.read_text()
    assert "# Benchmarks" in text
    assert "NOT MEASURED: nchan, Redis" in text
    assert cells(text, "Holdfast")[-3:] == ["0", "0", "0"]
    assert "10 readers lose their node, 300 events behind" in text
