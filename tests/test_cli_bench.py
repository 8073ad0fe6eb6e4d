"""`holdfast bench` on a node and a worker as processes, and its account where something is wrong."""

import asyncio
import json
import signal

import pytest

from shared.client import AsyncClient
from shared.console.load import Account, Heard, Load, Plan, Run, account
from tests.support.cli import ended, holdfast, start
from tests.support.ports import free_port
from tests.support.system import system

SMALL = ("--sessions", "3", "--readers", "2", "--seconds", "0.6", "--rate", "30")


async def _left(url: str) -> int:
    async with AsyncClient(url) as client:
        return len([each async for each in client.sessions()])


async def test_it_measures_a_deployment_that_runs(redis_url: str) -> None:
    """Every reader got the whole log, and how soon is told; nothing of the load is left."""
    async with system(redis_url) as running:
        said = await holdfast("bench", "--url", running.url, *SMALL, "--json", redis_url=redis_url)
        assert said.status == 0, said.err
        told = said.json
        assert (told["sessions"], told["readers"], told["sound"]) == (3, 6, True)
        assert (told["missing"], told["doubled"], told["gaps"], told["unfinished"]) == (0, 0, 0, 0)
        assert told["events"] >= 6 * 5, "each got the message, the start, deltas, usage and the end"
        assert told["lag_of"] == "append"
        assert 0 < told["first_token_p50"] <= told["first_token_p95"]
        assert told["lag_p50"] is not None
        assert await _left(running.url) == 0
        words = await holdfast("bench", "--url", running.url, *SMALL, columns=60, redis_url=redis_url)
        assert "every reader got every event once" in words.out
        assert words.width <= 60


async def test_without_redis_readers_are_compared_with_each_other(redis_url: str) -> None:
    """Where only HTTP is open, lag is that behind the first reader; --keep leaves the sessions."""
    async with system(redis_url) as running:
        nowhere = f"redis://127.0.0.1:{free_port()}/0"
        said = await holdfast("bench", "--url", running.url, *SMALL, "--keep", "--json", redis_url=nowhere)
        assert (said.status, said.json["lag_of"]) == (0, "readers")
        assert await _left(running.url) == 3


async def test_ctrl_c_leaves_nothing_behind(redis_url: str) -> None:
    """What it had begun is deleted, also in the middle of it."""
    async with system(redis_url) as running:
        process = await start("bench", "--url", running.url, "-n", "3", "-s", "60", redis_url=redis_url)
        async with asyncio.timeout(20):
            while await _left(running.url) < 3:
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGINT)
        said = await ended(process)
        assert (said.status, said.err) == (130, "")
        assert await _left(running.url) == 0


async def test_a_deployment_that_is_away_is_one_line_and_a_status() -> None:
    """And names the address."""
    url = f"http://127.0.0.1:{free_port()}"
    said = await holdfast("bench", "--url", url)
    assert (said.status, said.out, said.err.count("\n"), url in said.err) == (3, "", 1, True)


async def test_a_load_that_fails_ends_with_1(redis_url: str) -> None:
    """No worker is there: nothing is ever said, and that is told."""
    async with system(redis_url, workers=0) as running:
        said = await holdfast(
            "bench", "--url", running.url, *SMALL, "--patience", "1", "--json", redis_url=redis_url
        )  # fmt: skip
        assert (said.status, said.json["sound"], said.json["errors"]) == (1, False, {"not over in time": 3})


def _account(*readers: list[str], gaps: int = 0, ended: bool = True) -> Account:
    """Of one session whose log is a, b, c, d."""
    load = Load(Plan(1, len(readers), 1, 1), "http://x")
    heards = [Heard(ids, [float(n) for n, _ in enumerate(ids)], None, gaps, ended) for ids in readers]
    load.runs = [Run(readers=heards, log=list("abcd"))]
    return account(load)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (_account(list("abcd"), list("abcd")), (0, 0, 0, 0, True)),
        (_account(list("abd"), list("abcd")), (1, 0, 0, 0, False)),
        (_account(list("abbcd")), (0, 1, 0, 0, False)),
        (_account(list("abcd"), gaps=1), (0, 0, 1, 0, False)),
        (_account(list("abc"), ended=False), (1, 0, 0, 1, False)),
    ],
)
def test_the_account_finds_what_is_wrong(told: Account, expected: tuple[int, int, int, int, bool]) -> None:
    """An event that one reader lacks, one that came twice, a gap, a stream without its end."""
    assert (told.missing, told.doubled, told.gaps, told.unfinished, told.sound) == expected
    assert json.dumps(told.errors) == "{}"
