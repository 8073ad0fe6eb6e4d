"""Which refusals the browser's client takes for passing trouble: the same over a socket as over HTTP."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from api.errors import status_of
from shared.errors import ConfigurationError, HoldfastError
from tests.support.follower import Refused, follower
from tests.support.script_socket import Line, script_socket
from tests.support.tools import node

MODULE = Path(__file__).parents[1] / "api" / "web" / "errors.js"
SCRIPT = """
const { isPassing, isPassingCode } = await import(process.argv[1]);
const verdict = ([code, status]) => [isPassingCode(code), isPassing(status)];
console.log(JSON.stringify(JSON.parse(process.argv[2]).map(verdict)));
"""


def _kinds(kind: type[HoldfastError] = HoldfastError) -> Iterator[type[HoldfastError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def test_every_error_is_passing_trouble_by_its_code_as_by_its_status() -> None:
    """What HTTP clients repeat (429, 5xx), a socket's commands repeat, and nothing else."""
    # A setting that is wrong is said at start, to no client. The others are what is raised: classes without a code of
    # their own are only above others. Those of our own client are said by nobody.
    kinds = [kind for kind in _kinds() if "code" in vars(kind) and kind is not ConfigurationError]
    kinds = [kind for kind in kinds if not kind.__module__.startswith("shared.client")]
    wire = json.dumps([[kind.code, status_of(kind.__new__(kind))] for kind in kinds])
    command = [node(), "--input-type=module", "-e", SCRIPT, str(MODULE), wire]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    verdicts = dict(zip([kind.code for kind in kinds], json.loads(done.stdout), strict=True))
    assert {code for code, (by_code, _) in verdicts.items() if by_code} == {
        code for code, (_, by_status) in verdicts.items() if by_status
    }
    assert verdicts["rate_limited"] == [True, True]
    assert verdicts["question_gone"] == [False, False]


async def _refuse(line: Line, code: str, **more: object) -> dict[str, object]:
    """Refuse the next command; gives it."""
    frame = await line.hear()
    await line.say(type="error", ref=frame["ref"], data={"code": code, "message": "not now", **more})
    return frame


@pytest.mark.parametrize("code", ["rate_limited", "authentication_unavailable", "redis_unavailable"])
async def test_a_command_is_repeated_after_trouble_that_passes(code: str) -> None:
    """As it was, with the same key."""
    async with script_socket() as server, follower(server.url, "s1", transport="websocket") as speaker:
        line = await server.line()
        sent = speaker.begin("send", "one")
        first = await _refuse(line, code)
        again = await line.hear()
        assert again == first
        await line.say(type="reply", ref=again["ref"], data={"generation": "g1"})
        assert (await speaker.reply(sent))["generation"] == "g1"


async def test_a_command_is_repeated_no_sooner_than_it_was_told() -> None:
    """Where a refusal says when to try again, that is when."""
    async with script_socket() as server, follower(server.url, "s1", transport="websocket", clock=True) as speaker:
        line = await server.line()
        speaker.begin("send", "one")
        first = await _refuse(line, "rate_limited", retry_after_s=20)
        refused = speaker.begin("answer", "q1", "yes")
        await _refuse(line, "question_gone")
        with pytest.raises(Refused, match="question_gone"):  # so the refusal before it was read
            await speaker.reply(refused)
        await speaker.call("tick", 19_000)
        speaker.begin("answer", "q2", "yes")
        assert (await line.hear())["type"] == "answer"
        await speaker.call("tick", 1_500)
        assert await line.hear() == first


async def test_a_command_whose_trouble_does_not_pass_rejects_with_it() -> None:
    """Not as if the server had not been reached."""
    async with script_socket() as server, follower(server.url, "s1", transport="websocket", clock=True) as speaker:
        line = await server.line()
        sent = speaker.begin("send", "one")
        await _refuse(line, "rate_limited", retry_after_s=120)
        refused = speaker.begin("answer", "q1", "yes")
        await _refuse(line, "question_gone")
        with pytest.raises(Refused, match="question_gone"):
            await speaker.reply(refused)
        await speaker.call("tick", 61_000)
        with pytest.raises(Refused, match="rate_limited"):
            await speaker.reply(sent)
