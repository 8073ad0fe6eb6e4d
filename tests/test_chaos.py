"""A short form of `python -m tests.chaos`: a fault of most kinds, in an order that is always the same."""

from pathlib import Path

from tests.chaos.faults import Target, drawn
from tests.chaos.run import chaos, table, totals

SEED, FAULTS, SESSIONS = 7, 12, 16


async def test_nothing_is_lost_whatever_breaks(tmp_path: Path) -> None:
    """Workers, nodes, nginx, readers and Redis break in turn and together under sessions of all kinds. Every reader has
    every event once and in order, every answer is whole or ended as its user wanted, every generation has one end."""
    assert {fault.target for fault in drawn(SEED, FAULTS)} == set(Target)
    report = await chaos(tmp_path, seed=SEED, faults=FAULTS, sessions=SESSIONS)
    assert report.passed, f"\n{table(report)}\n\n{totals(report)}"
    assert len(report.struck) == FAULTS
    assert len(report.results) > SESSIONS
    assert sum(result.connections for result in report.results) > sum(result.readers for result in report.results)


def test_a_seed_draws_the_same_faults() -> None:
    """What a run found can be looked for again."""
    assert drawn(1, 40) == drawn(1, 40) != drawn(2, 40)
    assert [fault.victim for fault in drawn(1, 40)] == [fault.victim for fault in drawn(1, 40)]
