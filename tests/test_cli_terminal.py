"""What the `holdfast` command does to a terminal and to a pipe, and what nothing in Redis may do to them."""

import asyncio
import json
import os
import signal
import sys
from typing import Any

import pytest
import typer

from shared import keys
from shared.console.desk import finish
from shared.credentials import digest
from shared.events import encode
from shared.log import Log
from tests.support import sessions
from tests.support.cli import holdfast, start
from tests.support.system import ROOT

EVIL = "\x1b]0;owned\x07\u202e\u2028[red]"
PIPE = {"COLUMNS": ""}
"""As in a shell, where nobody says how wide a pipe is."""


async def _failed(log: Log, sid: str, message: str) -> None:
    held = await sessions.started(log, sid)
    data = encode({"generation": "g1", "code": "overloaded", "message": message, "retryable": True})
    await log.append(sid, held.token, held.epoch, 2, [("generation.failed", data)])


# -- terminals


async def _until(fd: int, word: bytes, said: bytearray) -> None:
    """Read what comes out of a terminal until it shows this."""
    ready, loop = asyncio.Event(), asyncio.get_running_loop()
    loop.add_reader(fd, ready.set)
    try:
        async with asyncio.timeout(20):
            while word not in said:
                await ready.wait()
                ready.clear()
                said += os.read(fd, 65536)
    finally:
        loop.remove_reader(fd)


async def test_watch_writes_over_a_screen_of_its_own_and_gives_the_terminal_back(
    log: Log, redis: Any, redis_url: str
) -> None:
    """Nothing is erased, so nothing flickers; after Ctrl-C the last picture stays, the cursor too. What Redis has of a
    session is shown as text."""
    await sessions.create(log, "kelp")
    await redis.hset(keys.session("kelp"), "principal", EVIL)
    ours, its = os.openpty()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.cli", "sessions", "--watch", "--every", "0.1", "--redis", redis_url),
        cwd=ROOT, env={"PATH": os.environ["PATH"], "TERM": "xterm", "COLUMNS": "100", "LINES": "20"},
        stdin=its, stdout=its, stderr=its,
    )  # fmt: skip
    os.close(its)
    said = bytearray()
    await _until(ours, b"Ctrl-C ends", said)
    process.send_signal(signal.SIGINT)
    await _until(ours, b"\x1b[?1049l", said)
    last = said.partition(b"\x1b[?1049l")[2]
    await _until(ours, b"1 queued", last)
    assert await process.wait() == 130
    os.close(ours)
    assert b"\x1b[?1049h" in said
    assert b"\x1b[2K" not in said
    assert b"\x1b[?25h" in said
    assert b"kelp" in last
    for text in (said.decode(), last.decode()):
        assert not set("\x07\u202e\u2028") & set(text)
        assert "owned" in text
        assert "[red]" in text


async def test_watch_tells_a_pipe_one_picture_after_another(log: Log, redis_url: str) -> None:
    """At once, not at the end."""
    await sessions.create(log, "kelp")
    process = await start("sessions", "--watch", "--every", "0.1", redis_url=redis_url, environment=PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(20):
        headings = 0
        while headings < 3:
            headings += (await process.stdout.readline()).startswith(b"SESSION")
    process.send_signal(signal.SIGINT)
    assert await process.wait() == 130


async def test_what_failed_is_told_whole_on_a_narrow_terminal(log: Log, redis_url: str) -> None:
    """`tail` folds the reason of a failure below itself; `show` names its code."""
    await _failed(log, "kelp", " ".join(f"word{n}" for n in range(20)))
    told = await holdfast("tail", "kelp", redis_url=redis_url, columns=80)
    assert told.width <= 80
    assert all(f"word{n}" in told.out for n in range(20))
    assert len({len(line) - len(line.lstrip()) for line in told.out.splitlines()[3:]}) == 1, "below each other"
    shown = await holdfast("show", "kelp", redis_url=redis_url, columns=80)
    assert "it failed (overloaded)" in shown.out


async def test_what_is_not_utf8_gets_question_marks(log: Log, redis_url: str) -> None:
    """A terminal of another encoding is no reason for a traceback."""
    await sessions.finished(log, "日本語 and kelp")
    for command in (["show", sessions.SID], ["tail", sessions.SID], ["sessions"], ["doctor"]):
        said = await holdfast(*command, redis_url=redis_url, environment={"PYTHONIOENCODING": "ascii"})
        assert "Traceback" not in said.err, command
        assert said.out.isascii()
    assert "??? and kelp" in (await holdfast("show", sessions.SID, redis_url=redis_url,
                                             environment={"PYTHONIOENCODING": "ascii"})).out  # fmt: skip


# -- pipes, and disks


async def test_a_pipe_is_given_whole_lines_and_every_column(log: Log, redis: Any, redis_url: str) -> None:
    """Who searches through them must find what is there."""
    sid = "x" * 64
    held = await sessions.started(log, sid, "host-" + "w" * 60)
    words = " ".join(f"word{n}" for n in range(60))
    await sessions.say(log, held, 2, words, sid=sid)
    await redis.hset(keys.session(sid), "principal", "p" * 100)
    row = (await holdfast("sessions", redis_url=redis_url, environment=PIPE)).out.splitlines()[1]
    assert [column in row for column in (sid, "p" * 100, "host-" + "w" * 60)] == [True] * 3
    await sessions.finish(log, held, 3, sid=sid)
    assert words in (await holdfast("tail", sid, redis_url=redis_url, environment=PIPE)).out


async def test_a_full_disk_is_not_blamed_on_redis(redis_url: str) -> None:
    """One line says what could not be done."""
    full = os.open("/dev/full", os.O_WRONLY)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "shared.cli", "sessions", "--redis", redis_url),
        cwd=ROOT, stdout=full, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    os.close(full)
    _, err = await process.communicate()
    assert process.returncode == 3
    assert err.startswith(b"holdfast: the output cannot be written")
    assert err.count(b"\n") == 1


# -- what stands in Redis


async def test_keys_that_are_no_sessions_are_passed_over(log: Log, redis: Any, redis_url: str) -> None:
    """Whatever bytes somebody has given them for a name."""
    await sessions.create(log, "kelp")
    for name in (b"\xff\xfe", b"\x1b]0;owned\x07", b"two words", b"x" * 65):
        await redis.hset(b"holdfast:{%b}:session" % name, mapping={"state": "running", "created": 1})
    said = await holdfast("sessions", "--json", redis_url=redis_url)
    assert [session["id"] for session in said.json["sessions"]] == ["kelp"]
    checked = await holdfast("doctor", redis_url=redis_url)
    assert "expiry" in checked.out
    assert "\x07" not in checked.out


async def test_a_session_that_cannot_be_read_is_one_line(log: Log, redis: Any, redis_url: str) -> None:
    """Somebody wrote into its hash."""
    await sessions.create(log, "kelp")
    await redis.hset(keys.session("kelp"), "state", "asleep")
    said = await holdfast("show", "kelp", redis_url=redis_url)
    assert (said.status, said.out, said.err.count("\n")) == (3, "", 1)
    assert "asleep" in said.err


async def test_a_key_of_another_type_ends_nothing(log: Log, redis: Any, redis_url: str) -> None:
    """It is named like a session's hash: `sessions` passes it over and says so, `doctor` finds it."""
    await sessions.create(log, "kelp")
    await redis.set(keys.session("x"), "y")
    told, shown, checked = await asyncio.gather(
        holdfast("sessions", "--json", redis_url=redis_url),
        holdfast("sessions", redis_url=redis_url),
        holdfast("doctor", "--json", redis_url=redis_url),
    )
    assert [session["id"] for session in told.json["sessions"]] == ["kelp"]
    assert told.json["unreadable"] == [keys.session("x")]
    assert (shown.status, shown.err) == (0, "")
    assert f"! 1 key is named like a session, and is none that can be read: {keys.session('x')}" in shown.out
    (found,) = [each for each in checked.json["findings"] if each["check"] == "expiry"]
    assert (found["level"], keys.session("x") in found["text"]) == ("warn", True)


async def test_a_long_id_pushes_no_other_column_out(log: Log, redis_url: str) -> None:
    """At 80 columns it stands on two lines, whole."""
    await sessions.create(log, "x" * 64)
    await sessions.create(log, "kelp")
    said = await holdfast("sessions", redis_url=redis_url, columns=80)
    head = said.out.splitlines()[0].split()
    assert {"SESSION", "STATE", "OWNER", "MODEL"} <= set(head)
    assert said.width <= 80
    assert said.out.count("x") == 64
    assert len(said.out.splitlines()) == 5, "the heading, three lines of two sessions, the total"


# -- our own faults


def test_a_bug_is_told_as_one(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody has thought of is not blamed on Redis; where it happened is shown to those who debug."""

    async def work() -> int:
        raise ValueError("left is not right")

    monkeypatch.setattr("shared.console.desk.configure", lambda *_: None)  # of this process: other tests hear its logs
    for level, places in (("info", 0), ("debug", 1)):
        monkeypatch.setenv("HOLDFAST_LOG_LEVEL", level)
        with pytest.raises(typer.Exit) as ended:
            finish(work)
        err = capfd.readouterr().err
        assert ended.value.exit_code == 70
        assert err.count("Traceback") == places
        assert "a bug of Holdfast, please report it: ValueError: left is not right" in err
        assert ("HOLDFAST_LOG_LEVEL=debug" in err) is (level == "info")


# -- usage

COMMANDS: tuple[list[str], ...] = (
    [],
    ["sessions"],
    ["show"],
    ["tail"],
    ["stop"],
    ["doctor"],
    ["bench"],
    ["keys"],
    ["keys", "new"],
    ["dev"],
)


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_help_tells_flags_from_options_with_a_value(command: list[str]) -> None:
    """A flag takes none, so none is shown."""
    said = await holdfast(*command, "--help", columns=80)
    assert said.status == 0
    assert "--help" in said.out
    assert "<bool>" not in said.out
    assert said.width <= 80


@pytest.mark.parametrize("command", ["api", "worker"])
async def test_wrong_settings_end_a_process_with_2(command: str) -> None:
    """As they end every other command; they are named."""
    said = await holdfast(command, environment={"HOLDFAST_PORT": "many"})
    assert (said.status, said.err.count("\n")) == (2, 1)
    assert said.err.startswith("holdfast: HOLDFAST_PORT")


async def test_keys_are_told_to_programs() -> None:
    """The key, and what is stored of it; a secret."""
    told = (await holdfast("keys", "new", "alice", "--json")).json
    assert told["stored"] == {"alice": [digest(told["key"])]}
    assert len((await holdfast("keys", "secret", "--json")).json["secret"]) >= 32
    words = (await holdfast("keys", "new", "alice")).out.splitlines()
    assert json.loads(words[1][words[0].index("hf_") :]).keys() == {"alice"}, "below each other"
    wrong = await holdfast("keys", "new", "two words")
    assert (wrong.status, wrong.err.startswith("holdfast: ")) == (2, True)
