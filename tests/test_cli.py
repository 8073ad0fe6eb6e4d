"""`holdfast sessions`, `show` and `stop`: what people on call, and their programs, are told of sessions."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from shared import keys
from shared.console.render import span
from shared.directory import Directory
from shared.embedded import embedded_redis
from shared.events import encode
from shared.jobs import JobQueue, open_queue
from shared.log import Log, Retention
from tests.support import sessions
from tests.support.cli import Said, ended, holdfast, line_of, start
from tests.support.inprocess import live_worker
from tests.support.ports import free_port
from tests.support.redis_client import connected
from tests.support.redis_server import redis_server

WORKER = "host-1-abc"
HOUR_MS = 3_600_000


async def _made(log: Log, directory: Directory) -> None:
    """One session of each kind: `a` runs, `b` is queued, `c` waits, `d` is over, `e` failed; `b` is two hours old."""
    for sid in "abc":
        await directory.expect_live(sid)
    held = await sessions.started(log, "a", WORKER)
    await sessions.say(log, held, 2, "Hel", "lo ", "there", sid="a")
    await sessions.create(log, "b")
    asking = await sessions.started(log, "c", WORKER)
    await log.append("c", asking.token, asking.epoch, 2, [sessions.question("q1")])
    await sessions.finished(log, "done", sid="d")
    failing = await sessions.started(log, "e", WORKER)
    data = encode({"generation": "g1", "code": "overloaded", "message": "too busy", "retryable": True})
    await log.append("e", failing.token, failing.epoch, 2, [("generation.failed", data)])
    await directory.refresh_lease(WORKER, 60_000, encode({"host": "h1", "pid": 7, "generations": 2}).decode())
    now = await directory.now_ms()
    await log._redis.hset(keys.session("b"), "created", now - 2 * HOUR_MS)
    await log._redis.hset(keys.session("d"), "principal", "alice")
    for sid in "ad":  # one of them is not hers
        await directory.touch_owned("alice", sid, now, HOUR_MS)


@pytest.fixture
async def made(log: Log, directory: Directory) -> None:
    await _made(log, directory)


def _ids(said: Said) -> set[str]:
    assert said.status == 0, said.err
    return {session["id"] for session in said.json["sessions"]}


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ([], "abcde"),
        (["--state", "running"], "a"),
        (["--state", "live"], "abc"),
        (["--state", "failed", "--state", "waiting"], "ce"),
        (["--owner", "alice"], "d"),
        (["--owner", "alice", "--state", "failed"], ""),
        (["--older-than", "1h"], "b"),
        (["--younger-than", "60m"], "acde"),
    ],
)
@pytest.mark.usefixtures("made")
async def test_sessions_are_filtered(redis_url: str, filters: list[str], expected: str) -> None:
    """By state, owner and age, and by all of them together."""
    assert _ids(await holdfast("sessions", "--json", *filters, redis_url=redis_url)) == set(expected)


@pytest.mark.usefixtures("made")
async def test_sessions_are_limited_and_the_rest_is_counted(redis_url: str) -> None:
    """Live ones come first; how many there are besides is said."""
    said = await holdfast("sessions", "--json", "--limit", "3", redis_url=redis_url)
    assert (_ids(said), said.json["fitting"]) == (set("abc"), 5)
    assert "3 of 5 sessions shown" in (await holdfast("sessions", "--limit", "3", redis_url=redis_url)).out


@pytest.mark.parametrize("columns", [60, 80, 120])
@pytest.mark.usefixtures("made")
async def test_no_output_is_wider_than_the_terminal(redis_url: str, columns: int, log: Log) -> None:
    """Columns that do not fit are left out, lines are folded; ids are whole at every width."""
    long = "x" * 40
    await sessions.finished(log, "word " * 60, sid=long)
    for command in (["sessions"], ["show", long], ["tail", long], ["doctor"], ["stop", "d"]):
        said = await holdfast(*command, redis_url=redis_url, columns=columns)
        assert said.width <= columns, command
        assert said.err == ""
    assert long in (await holdfast("sessions", redis_url=redis_url, columns=columns)).out


@pytest.mark.usefixtures("made")
async def test_columns_are_aligned(redis_url: str) -> None:
    """Every state stands below the word STATE."""
    head, *rows, _ = (await holdfast("sessions", redis_url=redis_url)).out.splitlines()
    at = head.index("STATE")
    assert {row[at:].split()[0] for row in rows} == {"running", "queued", "waiting", "completed", "failed"}


@pytest.mark.usefixtures("made")
async def test_colours_can_be_had_and_refused(redis_url: str) -> None:
    """A pipe gets none; NO_COLOR means none where there would be some."""
    plain = await holdfast("sessions", redis_url=redis_url)
    forced = await holdfast("sessions", redis_url=redis_url, environment={"FORCE_COLOR": "1"})
    refused = await holdfast("sessions", redis_url=redis_url, environment={"FORCE_COLOR": "1", "NO_COLOR": "1"})
    green = "\x1b[32mrunning"
    assert ("\x1b" in plain.out, green in forced.out, green in refused.out) == (False, True, False)


@pytest.mark.usefixtures("made")
async def test_watch_tells_again_and_ctrl_c_ends_it(redis_url: str, log: Log) -> None:
    """With --json one document per look, the later ones newer; Ctrl-C leaves no traceback."""
    process = await start("sessions", "--watch", "--every", "0.1", "--state", "queued", "--json", redis_url=redis_url)
    assert '"b"' in await line_of(process)
    await log.stop("b", "test", "g1")
    async with asyncio.timeout(20):
        while '"b"' in (line := await line_of(process)):
            assert line
    process.send_signal(signal.SIGINT)
    said = await ended(process)
    assert (said.status, said.err) == (130, "")


async def test_a_user_who_may_not_scan_is_shown_live_sessions(log: Log, directory: Directory, redis_url: str) -> None:
    """The user of nodes and workers has no SCAN: that is said, and the index of live sessions is used."""
    await _made(log, directory)
    await log._redis.execute_command("ACL SETUSER", "node", "on", ">pw", "~*", "&*", "+@all", "-scan")
    said = await holdfast("sessions", "--json", redis_url=redis_url.replace("://", "://node:pw@"))
    assert _ids(said) == set("abc")
    assert "SCAN" in said.json["note"]


# -- show


@pytest.mark.usefixtures("made")
async def test_show_says_who_holds_the_pen(redis_url: str) -> None:
    """State, generation, attempt, worker, its machine, and what is left of its lease."""
    shown = (await holdfast("show", "a", "--json", redis_url=redis_url)).json
    assert (shown["state"], shown["generation"], shown["attempt"]) == ("running", "g1", 1)
    assert (shown["worker"], shown["worker_at"]) == (WORKER, "h1, process 7")
    assert 0 < shown["lease_left_ms"] <= 60_000
    assert shown["verdict"]["level"] == "ok"
    words = (await holdfast("show", "a", redis_url=redis_url)).out
    assert WORKER in words
    assert "Hello there" in words


@pytest.mark.usefixtures("made")
async def test_show_says_that_a_worker_is_gone(redis_url: str, redis: Any) -> None:
    """A lease that has run out is the answer to "is it stuck?"."""
    await redis.delete(keys.worker(WORKER))
    shown = (await holdfast("show", "a", "--json", redis_url=redis_url)).json
    assert (shown["lease_left_ms"], shown["verdict"]["level"]) == (None, "warn")
    await redis.hset(keys.session("a"), "since", 1)
    assert (await holdfast("show", "a", "--json", redis_url=redis_url)).json["verdict"]["level"] == "bad"


async def test_show_tells_times_and_sizes(log: Log, redis_url: str, redis: Any) -> None:
    """When it was asked, begun, and said its first word, as the log says it; and how much there is for how long."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "one ")
    await asyncio.sleep(0.01)  # another ms of Redis' clock
    await sessions.say(log, held, 3, "two")
    await sessions.finish(log, held, 4)
    shown = (await holdfast("show", sessions.SID, "--json", redis_url=redis_url)).json
    ats = [event.at for event in await log.events(sessions.SID)]
    times = shown["timings"]
    assert [times[name] for name in ("queued", "started", "first_token", "ended")] == [ats[0], ats[1], ats[2], ats[-1]]
    sizes = shown["sizes"]
    assert (sizes["events"], sizes["entries"]) == (5, 5)
    assert sizes["bytes"] == sum([await redis.memory_usage(f(sessions.SID), 0) for f in (keys.events, keys.session)])
    assert 0 < sizes["log_expires_in_ms"] <= 60_000 < sizes["session_expires_in_ms"]


async def test_show_shortens_what_was_said_unless_it_is_asked_for_all(log: Log, redis_url: str) -> None:
    """The beginning and the end of a long answer: the end is what the user saw last."""
    words = [f"w{n} " for n in range(400)]
    await sessions.finished(log, *words)
    short = (await holdfast("show", sessions.SID, redis_url=redis_url)).out
    full = (await holdfast("show", sessions.SID, "--full", redis_url=redis_url)).out
    assert [word in short for word in ("w0 ", "w200 ", "w399")] == [True, False, True]
    assert all(f"w{n}" in full for n in range(400))
    asked = (await holdfast("show", sessions.SID, "--json", redis_url=redis_url)).json
    assert asked["transcript"][-1]["content"] == "".join(words)


async def test_nothing_a_session_says_reaches_the_terminal_as_a_command(log: Log, redis_url: str) -> None:
    """A model, or its user, could otherwise clear the screen, change its title, or forge lines."""
    evil = "\x1b[2J\x1b]0;owned\x07 \x9b2J \u202edlrow"
    await sessions.finished(log, evil)
    for command in (["show", sessions.SID], ["show", sessions.SID, "--json"], ["tail", sessions.SID]):
        said = await holdfast(*command, redis_url=redis_url)
        assert "owned" in said.out
        assert not set(said.out) & {"\x1b", "\x07", "\x9b", "\u202e"}, command


# -- stop


@pytest.mark.usefixtures("made")
async def test_stop_cancels_what_is_queued(log: Log, redis_url: str) -> None:
    """At once; a second time there is nothing to stop."""
    first, second = [await holdfast("stop", "b", "--yes", "--json", redis_url=redis_url) for _ in range(2)]
    assert (first.json["outcome"], second.json["outcome"]) == ("cancelled", "done")
    assert (await sessions.types(log, "b"))[-1] == "generation.cancelled"


async def test_stop_ends_what_runs(redis_url: str, log: Log) -> None:
    """Its worker is told, and ends it; the log says who asked."""
    async with live_worker(redis_url):
        view = await _running(redis_url, log)
        said = await holdfast("stop", view, "--yes", redis_url=redis_url)
    assert said.status == 0
    assert "is cancelled now" in said.out
    newest = (await log.events(view))[-1]
    assert (newest.type, newest.value["by"]) == ("generation.cancelled", "operator")


async def test_the_end_names_the_operator_though_the_announcement_is_lost(redis_url: str, log: Log) -> None:
    """The wish itself is stored with who has it: the worker sees it with its next append."""
    async with live_worker(redis_url):
        sid = await _running(redis_url, log)
        assert (await log.stop(sid, "operator", "g1")).outcome == "stopping"
        await log.stop(sid, "user", "g1")  # who comes later is not who stopped it
        async with asyncio.timeout(20):
            while (newest := (await log.events(sid))[-1]).type != "generation.cancelled":
                await asyncio.sleep(0.02)
    assert newest.value["by"] == "operator"


async def _running(redis_url: str, log: Log) -> str:
    fields = {**sessions.FIELDS, "model": "demo/lorem", "options": '{"tokens": 5000, "rate": 20}'}
    opened = await log.create("long", "n", "body", [sessions.HELLO], fields)
    queue = JobQueue(open_queue(redis_url, 5))
    await queue.enqueue("long", opened.generation, opened.last.epoch)
    await queue.aclose()
    async with asyncio.timeout(20):
        while "text.delta" not in await sessions.types(log, "long"):
            await asyncio.sleep(0.02)
    return "long"


@pytest.mark.usefixtures("made")
async def test_stop_asks_first(redis_url: str, log: Log) -> None:
    """Where nobody can be asked, it stops nothing and says what to do."""
    said = await holdfast("stop", "a", redis_url=redis_url)
    assert (said.status, "--yes" in said.err) == (2, True)
    view = await log.view("a")
    assert view is not None
    assert view.stop == ""


@pytest.mark.parametrize(("said", "status", "asked"), [("n", 0, ""), ("y", 0, "g1"), ("^C", 130, "")])
@pytest.mark.usefixtures("made")
async def test_stop_does_what_it_is_answered(redis_url: str, log: Log, said: str, status: int, asked: str) -> None:
    """At a terminal: no and Ctrl-C leave the session alone, yes stops it."""
    ours, its = os.openpty()
    process = await start("stop", "a", "--wait", "0", redis_url=redis_url, stdin=its)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        await process.stdout.readuntil(b"[y/N]")
    if said == "^C":
        process.send_signal(signal.SIGINT)
    else:
        os.write(ours, f"{said}\n".encode())
    ending = await ended(process)
    assert (ending.status, ending.err) == (status, "")
    view = await log.view("a")
    assert view is not None
    assert view.stop == asked
    for end in (ours, its):
        os.close(end)


@pytest.mark.usefixtures("made")
async def test_stop_of_what_nobody_ends_says_so(redis_url: str) -> None:
    """A worker that does not answer: the wish is stored, and that is what is told."""
    said = await holdfast("stop", "a", "--yes", "--wait", "0.2", redis_url=redis_url)
    assert said.status == 0
    assert "has not ended yet" in " ".join(said.out.split())


# -- what goes wrong


@pytest.mark.parametrize("command", [["show", "nobody"], ["tail", "nobody"], ["stop", "nobody", "--yes"]])
async def test_an_unknown_session_is_one_line_and_a_status(redis_url: str, command: list[str]) -> None:
    """On stderr, so that a program's input stays clean."""
    said = await holdfast(*command, redis_url=redis_url)
    assert (said.status, said.out, said.err) == (4, "", "holdfast: no session 'nobody'\n")


@pytest.mark.parametrize("command", [["sessions"], ["show", "a"], ["tail", "a"], ["stop", "a", "-y"]])
async def test_redis_away_is_one_line_and_a_status(command: list[str]) -> None:
    """It names where it was looked for, without the password."""
    port = free_port()
    said = await holdfast(*command, redis_url=f"redis://u:secret@127.0.0.1:{port}/0")
    assert (said.status, said.out, said.err.count("\n")) == (3, "", 1)
    assert f"127.0.0.1:{port} does not answer" in said.err
    assert "secret" not in said.err


async def test_wrong_credentials_are_told_apart() -> None:
    """From a server that is away."""
    with redis_server("--requirepass", "right") as server:
        said = await holdfast("sessions", "--redis", f"redis://:wrong@127.0.0.1:{server.port}/0")
    assert (said.status, "credentials" in said.err) == (3, True)


@pytest.mark.parametrize(
    "command",
    [
        ["sessions", "--state", "sleeping"],
        ["sessions", "--older-than", "soon"],
        ["tail", "a", "--after", "yesterday"],
        ["show", "a", "--redis", "http://x"],
    ],
)
async def test_wrong_usage_is_told_with_2(redis_url: str, command: list[str]) -> None:
    """Not as though Redis, or the session, were at fault."""
    assert (await holdfast(*command, redis_url=redis_url)).status == 2


async def test_the_redis_of_dev_is_found_in_its_folder(tmp_path: Path) -> None:
    """`holdfast dev` in one terminal, `holdfast sessions` in another one: nothing need be set."""
    with embedded_redis(tmp_path / ".holdfast") as started:
        async with connected(started.url, connections=1) as redis:
            await sessions.create(Log(redis, Retention(1, 1)), "found")
        assert _ids(await holdfast("sessions", "--json", cwd=tmp_path)) == {"found"}
    assert not (tmp_path / ".holdfast" / "url").exists()


async def test_every_command_says_its_statuses() -> None:
    """What a program must know of a command is in its --help."""
    for command in ("sessions", "show", "tail", "stop", "doctor", "bench"):
        said = await holdfast(command, "--help")
        assert "4: no such session" in " ".join(said.out.split()), command
        assert said.width <= 100


def test_durations_are_told_in_two_figures() -> None:
    """Of the largest unit that fits."""
    given = (0, 999, 1000, 59_999, 60_000, 3_599_000, 7_500_000, 90_000_000)
    assert [span(ms) for ms in given] == [
        "0 ms", "999 ms", "1.0 s", "59.9 s", "1m00s", "59m59s", "2h05m", "1d01h",
    ]  # fmt: skip
