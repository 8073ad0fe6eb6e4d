"""Which generation a stop of the browser's Follower means: the one its sender had in mind, over every cut."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from tests.support.follower import Refused, follower
from tests.support.inprocess import LiveNode, live_node, live_worker
from tests.support.script_socket import script_socket
from tests.support.system import create

LONG = {"model": "demo/lorem", "options": {"tokens": 5000, "rate": 50}}


def _gist(frame: dict[str, Any]) -> tuple[str, str | None]:
    return frame["type"], frame.get("generation") or frame.get("input")


@pytest.fixture
async def node(redis_url: str) -> AsyncIterator[LiveNode]:
    async with live_node(redis_url) as running, live_worker(redis_url):
        yield running


async def test_a_stop_names_the_generation_its_sender_saw() -> None:
    """What is said after it does not change what it means."""
    async with script_socket() as server, follower(server.url, "s1", transport="websocket") as speaker:
        line = await server.line()
        await line.event("5-1", "generation.started", generation="g7")
        await speaker.until(lambda: speaker.ids == ["5-1"])
        speaker.begin("stop")
        speaker.begin("send", "and?")
        assert [_gist(await line.hear()), _gist(await line.hear())] == [("stop", "g7"), ("message", "and?")]


async def test_a_stop_after_a_message_means_its_answer_however_often_replies_are_lost() -> None:
    """It waits for the message's reply and bears its name from then on: another tab's later turn is not hit."""
    async with script_socket() as server, follower(server.url, "s1", transport="websocket", eager=True) as speaker:
        line = await server.line()
        await line.event("1-1", "generation.completed", generation="g1")
        await speaker.until(lambda: speaker.ids == ["1-1"])
        sent, stopped = speaker.begin("send", "next"), speaker.begin("stop")
        message = await line.hear()
        assert _gist(message) == ("message", "next")
        await line.cut()
        line = await server.line()
        assert await line.hear() == message
        await line.event("3-1", "message", generation="g3", role="user", content="from another tab")
        await line.say(type="reply", ref=message["ref"], data={"generation": "g2"})
        stop = await line.hear()
        assert _gist(stop) == ("stop", "g2")
        await line.cut()
        line = await server.line()
        assert await line.hear() == stop
        await line.say(type="reply", ref=stop["ref"], data={"state": "cancelled"})
        assert (await speaker.reply(sent))["generation"] == "g2"
        assert (await speaker.reply(stopped))["state"] == "cancelled"


async def test_what_is_said_after_a_stop_that_waits_does_not_overtake_it() -> None:
    """Commands go in the order they were given in."""
    async with script_socket() as server, follower(server.url, "s1", transport="websocket") as speaker:
        line = await server.line()
        speaker.begin("send", "one")
        speaker.begin("stop")
        speaker.begin("send", "two")
        message = await line.hear()
        await line.say(type="reply", ref=message["ref"], data={"generation": "g2"})
        assert [_gist(message), _gist(await line.hear()), _gist(await line.hear())] == [
            ("message", "one"),
            ("stop", "g2"),
            ("message", "two"),
        ]


@pytest.mark.parametrize("transport", ["websocket", "sse"])
async def test_a_stop_right_after_a_message_stops_its_answer(node: LiveNode, transport: str) -> None:
    """Also over SSE, where the two are requests that could overtake each other."""
    sid = await create(node.url, model="demo/echo", input="one")
    async with follower(node.url, sid, transport=transport) as speaker:
        await speaker.until(lambda: speaker.count("generation.completed") == 1)
        sent, stopped = speaker.begin("send", "two", LONG), speaker.begin("stop")
        assert (await speaker.reply(sent))["generation"] == "g2"
        assert (await speaker.reply(stopped))["state"] == "cancelled"
        await speaker.until(lambda: speaker.count("generation.cancelled") == 1)


async def test_a_stop_after_a_message_that_is_refused_stops_what_was_seen() -> None:
    """The message opened nothing: meant is what ran when its sender said so, and not what came after."""
    async with (
        script_socket(generation="g9") as server,
        follower(server.url, "s1", transport="websocket") as speaker,
    ):
        line = await server.line()
        await line.event("5-1", "generation.started", generation="g1")
        await speaker.until(lambda: speaker.ids == ["5-1"])
        sent = speaker.begin("send", "and?")
        speaker.begin("stop")
        message = await line.hear()
        await line.event("6-1", "message", generation="g2", role="user", content="from another tab")
        await line.say(type="error", ref=message["ref"], data={"code": "generation_running", "message": "no"})
        with pytest.raises(Refused, match="generation_running"):
            await speaker.reply(sent)
        assert _gist(await line.hear()) == ("stop", "g1")


async def test_a_stop_names_the_newest_generation_though_older_events_come_late() -> None:
    """A log that is behind a reply does not take the name back; one that lost its end does."""
    async with script_socket() as server, follower(server.url, "s1", transport="websocket") as speaker:
        line = await server.line()
        await line.event("9-1", "generation.started", generation="g1")
        sent = speaker.begin("send", "x", {"interrupt": True})
        message = await line.hear()
        await line.say(type="reply", ref=message["ref"], data={"generation": "g2"})
        await speaker.reply(sent)
        transcript = {"messages": [{"role": "assistant", "generation": "g1"}]}
        for event_id, kind, data, named in (
            ("9-2", "generation.cancelled", {"generation": "g1"}, "g2"),
            ("9-3", "gap", {"reason": "trimmed", "transcript": transcript}, "g2"),
            ("10-1", "message", {"generation": "g10", "role": "user", "content": "y"}, "g10"),
            ("10-2", "generation.cancelled", {"generation": "g9"}, "g10"),
            ("10-3", "gap", {"reason": "lost", "transcript": transcript}, "g1"),
        ):
            await line.event(event_id, kind, **data)
            await speaker.until(lambda event_id=event_id: event_id in speaker.ids)  # type: ignore[misc]
            speaker.begin("stop")
            stop = await line.hear()
            assert _gist(stop) == ("stop", named), event_id
            await line.say(type="reply", ref=stop["ref"], data={})


async def test_a_stop_by_one_who_heard_of_no_generation_names_the_one_of_now() -> None:
    """Behind a cursor nothing may be said for a while: the server is asked, and a repeat does not hit a later turn."""
    async with (
        script_socket(generation="g4") as server,
        follower(server.url, "s1", transport="websocket", after="7-3", eager=True) as speaker,
    ):
        line = await server.line()
        speaker.begin("stop")
        stop = await line.hear()
        assert _gist(stop) == ("stop", "g4")
        server.session["generation"] = "g5"
        await line.cut()
        assert await (await server.line()).hear() == stop


async def test_a_command_can_be_given_up_by_its_signal() -> None:
    """The signal is no part of the frame; what was given up is not sent again, and holds up nothing."""
    async with script_socket() as server, follower(server.url, "s1", transport="websocket", eager=True) as speaker:
        line = await server.line()
        sent = speaker.begin("send", "one", {"signal": "mine", "interrupt": True})
        message = await line.hear()
        assert set(message) == {"type", "ref", "key", "input", "interrupt"}
        answered = speaker.begin("answer", "q1", "yes", {"signal": "mine"})
        assert (await line.hear())["type"] == "answer"
        await speaker.call("abort", "mine")
        for given_up in (sent, answered, speaker.begin("send", "late", {"signal": "mine"})):
            with pytest.raises(Refused, match="AbortError"):
                await speaker.reply(given_up)
        await line.cut()
        line = await server.line()
        speaker.begin("send", "two")
        assert _gist(await line.hear()) == ("message", "two")
