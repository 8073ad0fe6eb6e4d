"""The rules of the log that its scripts keep: stops, verdicts, answers, retention, and what a refusal leaves."""

from typing import Any

import pytest
from redis.crc import key_slot
from redis.exceptions import RedisError

from shared import keys, scripts
from shared.errors import NotTheGeneration, QuestionGone, SessionDeleted, SessionExpired, SessionNotFound
from shared.events import encode
from shared.ids import START, new_token
from shared.log import Log
from tests.support import sessions
from tests.support.sessions import FIELDS, HELLO, SID
from tests.support.wire import VERBS, Wire

# -- stop


async def test_stop_gid_never_hits_a_newer_generation(log: Log, redis: Any) -> None:
    """A stop for a generation that is over leaves the next one alone."""
    await sessions.finished(log)
    await sessions.next_turn(log)
    await sessions.claim(log, generation="g2")
    with pytest.raises(NotTheGeneration):
        await log.stop(SID, "user", "g1")
    assert await sessions.field(redis, "stop") == ""


async def test_stop_gid_is_cleared_by_the_next_message(log: Log, redis: Any) -> None:
    """A stop that lost the race with the end of its generation is forgotten with it."""
    held = await sessions.started(log)
    await log.stop(SID, "user", "g1")
    await sessions.finish(log, held, 2)
    await sessions.next_turn(log)
    assert await sessions.field(redis, "stop") == ""


async def test_stop_of_a_queued_generation_ends_it(log: Log) -> None:
    """Nobody holds the pen of a queued generation: the stop takes it, writes the end, and leaves nothing to claim."""
    await sessions.create(log)
    assert (await log.stop(SID, "user", "g1")).outcome == "cancelled"
    assert (await sessions.last(log)).type == "generation.cancelled"
    assert await log.claim(SID, new_token(), "g1", "w1") is None


async def test_stop_after_the_end_changes_nothing(log: Log) -> None:
    """A stop that comes too late finds how the generation ended."""
    await sessions.finished(log)
    before = await sessions.types(log)
    assert ((await log.stop(SID, "user", "g1")).outcome, await sessions.types(log)) == ("done", before)


async def test_stop_at_reap_ends_the_generation(log: Log) -> None:
    """A generation that was asked to stop and then lost its worker is cancelled, not run again."""
    held = await sessions.started(log)
    await log.stop(SID, "user", "g1")
    reaped = await log.reap(SID, held.epoch, 9, 0)
    assert reaped is not None
    assert not reaped.requeued
    assert (await sessions.last(log)).type == "generation.cancelled"


# -- verdicts


async def test_reap_grace_leaves_a_young_claim_alone(log: Log) -> None:
    """A generation whose state changed less than a lease ago is not judged."""
    held = await sessions.started(log)
    assert await log.reap(SID, held.epoch, 9, 60_000) is None


async def test_reap_judges_only_the_epoch_it_saw(log: Log) -> None:
    """A verdict that comes late does not hit the next attempt."""
    held = await sessions.started(log)
    assert await log.reap(SID, held.epoch, 9, 0)
    await sessions.claim(log, worker="w2")
    assert await log.reap(SID, held.epoch, 9, 0) is None


async def test_only_crashes_are_limited(log: Log, redis: Any) -> None:
    """A release costs no attempt; a lost worker does, and the last one ends the generation."""
    held = await sessions.started(log)
    for _ in range(3):
        assert (await log.release(SID, held.token))[0] == "QUEUED"
        held = await sessions.claim(log)
    assert await sessions.field(redis, "crashes") == "0"
    first = await log.reap(SID, held.epoch, 2, 0)
    held = await sessions.claim(log)
    second = await log.reap(SID, held.epoch, 2, 0)
    assert (first and first.requeued, second and second.requeued) == (True, False)
    assert (await sessions.last(log)).value["code"] == "worker_lost"


async def test_release_leaves_a_stop_to_the_holder(log: Log) -> None:
    """Where somebody asked to stop, the holder keeps the pen and writes the end itself."""
    held = await sessions.started(log)
    await log.stop(SID, "user", "g1")
    assert await log.release(SID, held.token) == ["STOP"]
    await sessions.finish(log, held, 2)


async def test_release_by_a_stranger_is_fenced(log: Log) -> None:
    """Only the holder gives the pen back."""
    await sessions.started(log)
    assert (await log.release(SID, new_token()))[0] == "FENCED"
    assert (await log.release(SID, ""))[0] == "FENCED"


async def test_abandon_ends_only_what_is_still_queued(log: Log) -> None:
    """A queued generation has a time limit; the verdict does not hit one that was claimed meanwhile."""
    opened = await sessions.create(log)
    assert not await log.abandon(SID, opened.last.epoch, 60_000)
    assert await log.abandon(SID, opened.last.epoch, 0)
    assert (await sessions.last(log)).value["code"] == "queue_timeout"
    await sessions.started(log, "s2")
    assert not await log.abandon("s2", opened.last.epoch, 0)


# -- answers


async def test_answer_first_one_wins(log: Log) -> None:
    """The first answer is kept; the same nonce again is the same answer; any other is too late."""
    held = await sessions.started(log)
    await log.append(SID, held.token, held.epoch, 2, [sessions.question("q1")])
    with pytest.raises(QuestionGone):
        await log.answer(SID, "n0", "q0", "no", "you")
    assert await log.answer(SID, "n1", "q1", "yes", "me") == "w1"
    assert await log.answer(SID, "n1", "q1", "yes", "me") == "w1"
    with pytest.raises(QuestionGone):
        await log.answer(SID, "n2", "q1", "no", "you")
    stored = (await log.append(SID, held.token, held.epoch, 2, []))[3]
    assert sessions.decoded(stored.encode())["text"] == "yes"


async def test_answer_repeated_after_it_was_taken_answers_the_same(log: Log) -> None:
    """An accepted answer whose reply was lost is accepted again, also once the generation has gone on with it."""
    held = await sessions.started(log)
    await log.append(SID, held.token, held.epoch, 2, [sessions.question("q1")])
    await log.answer(SID, "n1", "q1", "yes", "me")
    await log.append(SID, held.token, held.epoch, 3, [("answer", encode({"id": "q1", "text": "yes"}))])
    assert await log.answer(SID, "n1", "q1", "yes", "me") == "w1"


async def test_answer_of_an_older_question_is_forgotten_by_a_batch_with_the_next(log: Log, redis: Any) -> None:
    """A question and its answer that are said again in one batch leave the hash as they do one by one: without the
    answer to the question before."""
    held = await sessions.started(log)
    await log.append(SID, held.token, held.epoch, 2, [sessions.question("q1")])
    await log.answer(SID, "n1", "q1", "yes", "me")
    answered = [("answer", encode({"id": "q1"})), sessions.question("q2"), ("answer", encode({"id": "q2"}))]
    await log.append(SID, held.token, held.epoch, 3, answered)
    assert await sessions.field(redis, "answer") == ""


# -- retention


async def test_retention_begins_at_the_terminal_and_ends_with_a_message(log: Log, redis: Any) -> None:
    """Nothing of a live session expires; after the terminal its log does, and its hash later."""
    await sessions.finished(log)
    log_ms, hash_ms = await redis.pttl(keys.events(SID)), await redis.pttl(keys.session(SID))
    assert 0 < log_ms <= 60_000 < hash_ms <= 120_000
    await sessions.next_turn(log)
    assert (await redis.pttl(keys.events(SID)), await redis.pttl(keys.session(SID))) == (-1, -1)


async def test_message_on_an_expired_log_is_refused(log: Log, redis: Any) -> None:
    """A conversation whose log is gone cannot be continued: expired, not unknown."""
    await sessions.finished(log)
    await redis.delete(keys.events(SID))
    with pytest.raises(SessionExpired):
        await sessions.next_turn(log)
    with pytest.raises(SessionNotFound):
        await sessions.next_turn(log, "other")


async def test_delete_leaves_a_tombstone(log: Log) -> None:
    """A deleted session is not brought to life by a late repeat of its create, and its epochs do not come back."""
    opened = await sessions.create(log, nonce="n1")
    await log.delete(SID)
    assert await log.view(SID) is None
    with pytest.raises(SessionDeleted):
        await sessions.create(log, nonce="n1")
    assert await log.events(SID) == []
    again = await sessions.create(log, nonce="n2")
    assert again.last.epoch > opened.last.epoch
    assert (await sessions.last(log)).prev == START


# -- bytes


async def test_data_passes_through_unchanged(log: Log, redis: Any) -> None:
    """Event data is never decoded and encoded again: `[]` stays a list, and large numbers stay what they are."""
    data = b'{"value":[],"n":12345678901234567890,"deep":{"empty":{}}}'
    held = await sessions.started(log)
    await log.append(SID, held.token, held.epoch, 2, [("data", data)])
    assert (await sessions.last(log)).data == data


async def test_model_passes_through_to_the_start(log: Log) -> None:
    """The model's name is written as it was given, slashes and all."""
    await log.create(SID, "n", "body", [HELLO], {**FIELDS, "model": 'openai/ft:"x"/\\é'})
    await sessions.claim(log)
    assert (await sessions.last(log)).value["model"] == 'openai/ft:"x"/\\é'
    assert b"openai/ft" in (await sessions.last(log)).data


async def test_published_are_the_frames_of_what_was_appended(log: Log, redis: Any) -> None:
    """One message per batch, with the very bytes of the appended events; nothing for what was skipped."""
    held = await sessions.started(log)
    async with redis.pubsub() as listening:
        await listening.subscribe(keys.live(SID))
        await sessions.say(log, held, 2, "a", "b")
        await sessions.say(log, held, 2, "a", "b")
        await sessions.say(log, held, 3, "b", "c")
        await redis.publish(keys.live(SID), "end")
        heard = []
        while (message := await listening.get_message(timeout=5)) is None or message["data"] != b"end":
            heard += [message["data"]] if message is not None and message["type"] == "message" else []
    said = (await log.events(SID))[2:]
    assert heard == [said[0].frame + said[1].frame, said[2].frame]


@pytest.mark.parametrize("verb", VERBS)
def test_scripts_touch_only_the_keys_of_their_session(verb: str) -> None:
    """Lease, index and queue keys never appear in a session's script: all its keys are in one Cluster slot."""
    assert "holdfast" not in scripts.source(verb)
    more = {"session_stage": [keys.stage(SID, "n")], "session_compact": [keys.stage(SID, "n")]}.get(verb, [])
    assert f"KEYS[{len(keys.session_keys(SID) + more) + 1}]" not in scripts.source(verb)
    assert len({key_slot(key.encode()) for key in keys.session_keys(SID) + more}) == 1


# -- refusals leave no trace


@pytest.mark.parametrize("verb", ["create", "message", "claim", "append", "stop", "reap", "reap_ended", "abandon"])
async def test_full_memory_refuses_cleanly(verb: str, log: Log, redis: Any) -> None:
    """A Redis out of memory refuses every verb that would add to it, and leaves the session as it was."""
    epoch = await _before_full_memory(verb, log)
    before = await redis.hgetall(keys.session(SID)), await redis.dump(keys.events(SID))
    ttls = await redis.pttl(keys.session(SID)) == -1, await redis.pttl(keys.events(SID)) == -1
    for name in VERBS:  # else it is the loading that is refused, and the script is never asked
        await redis.script_load(scripts.source(name))
    await redis.config_set("maxmemory", 1)
    with pytest.raises(RedisError, match="maxmemory"):
        await _with_full_memory(verb, log, epoch)
    await redis.config_set("maxmemory", 0)
    assert (await redis.hgetall(keys.session(SID)), await redis.dump(keys.events(SID))) == before
    assert (await redis.pttl(keys.session(SID)) == -1, await redis.pttl(keys.events(SID)) == -1) == ttls


async def _before_full_memory(verb: str, log: Log) -> int:
    match verb:
        case "create":
            return 0
        case "message":
            return (await sessions.finished(log, "a")).epoch
        case "append" | "reap" | "reap_ended":
            return (await sessions.started(log)).epoch
    return (await sessions.create(log)).last.epoch


async def _with_full_memory(verb: str, log: Log, epoch: int) -> None:
    match verb:
        case "create":
            await sessions.create(log)
        case "message":
            await sessions.next_turn(log)
        case "claim":
            await sessions.claim(log)
        case "append":
            token = await sessions.field(log._redis, "token")  # a view is a MULTI, which a full memory refuses
            await log.append(SID, token, epoch, 2, [*sessions.deltas("a"), sessions.terminal()])
        case "stop":
            await log.stop(SID, "user", "g1")
        case "reap":
            await log.reap(SID, epoch, 9, 0)
        case "reap_ended":
            await log.reap(SID, epoch, 1, 0)
        case "abandon":
            await log.abandon(SID, epoch, 0)


@pytest.mark.parametrize("data", [b"not json", b"{}", b"[]", b'{"id":{}}'])
async def test_append_checks_before_it_writes(data: bytes, log: Log, redis: Any) -> None:
    """A batch the script cannot understand is refused whole: Redis does not roll back, and a log that has more than
    its hash says can never be appended to again."""
    held = await sessions.started(log)
    before = await redis.hgetall(keys.session(SID)), await sessions.types(log)
    with pytest.raises(RedisError):
        await log.append(SID, held.token, held.epoch, 2, [*sessions.deltas("a"), ("question", data)])
    assert (await redis.hgetall(keys.session(SID)), await sessions.types(log)) == before


async def test_append_refuses_what_follows_the_end(log: Log, redis: Any) -> None:
    """A batch with anything behind its terminal is refused whole: an end is the last that is said."""
    held = await sessions.started(log)
    before = await redis.hgetall(keys.session(SID)), await sessions.types(log)
    with pytest.raises(RedisError, match="follow the end"):
        await log.append(SID, held.token, held.epoch, 2, [sessions.terminal(), *sessions.deltas("late")])
    assert (await redis.hgetall(keys.session(SID)), await sessions.types(log)) == before


async def test_late_duplicate_of_a_message_opens_nothing(log: Log, redis: Any) -> None:
    """The very bytes of a message, come again after its turn is over, change nothing."""
    await sessions.finished(log)
    wire = await Wire(redis).open()
    await sessions.next_turn(Log(wire, log._retention))
    held = await sessions.claim(log, generation="g2")
    await sessions.finish(log, held, 2, generation="g2")
    before = await sessions.types(log)
    await wire.again(wire.sent[0])
    assert await sessions.types(log) == before
