"""The rules of the log that its scripts keep. Each test is one rule, and fails without it."""

import time
from typing import Any

import pytest

from shared import keys
from shared.errors import (
    GenerationRunning,
    IdempotencyMismatch,
    SessionExists,
)
from shared.events import encode
from shared.ids import EPOCH_JUMP, START, new_token
from shared.log import Log
from tests.support import sessions
from tests.support.sessions import FIELDS, HELLO, SID, Snapshot

# -- epochs


async def test_ms_epoch_begins_at_the_server_clock(log: Log, redis: Any) -> None:
    """After a whole loss of Redis an epoch is no smaller than the server's time in ms: old ids do not come back."""
    before = int(time.time() * 1000) - 1000
    opened = await sessions.create(log)
    assert before <= opened.last.epoch <= before + 60_000 + EPOCH_JUMP


async def test_rand_epoch_differs_after_a_rollback(log: Log, redis: Any) -> None:
    """Two claims made from the same state, one of which a failover lost, open different epochs."""
    await sessions.create(log)
    await redis.hset(keys.session(SID), "epoch", int(time.time() * 1000) + 10**9)
    before = await Snapshot.of(redis)
    lost = await sessions.claim(log)
    await before.restore()
    assert (await sessions.claim(log)).epoch != lost.epoch


async def test_epochs_grow_even_when_the_clock_is_behind(log: Log, redis: Any) -> None:
    """An epoch is larger than the last one, whatever the server's clock says."""
    await sessions.create(log)
    ahead = int(time.time() * 1000) + 10**9
    await redis.hset(keys.session(SID), "epoch", ahead)
    assert ahead < (await sessions.claim(log)).epoch <= ahead + 1 + EPOCH_JUMP


async def test_large_epochs_and_seqs_are_written_as_whole_numbers(log: Log, redis: Any) -> None:
    """No id is ever written as 9.0e+15: numbers of 16 digits pass through the scripts exactly."""
    await sessions.create(log)
    await redis.hset(keys.session(SID), "epoch", 2**53 - 2 * EPOCH_JUMP)
    held = await sessions.claim(log)
    await redis.hset(keys.session(SID), "last", f"{held.epoch}-{10**15}")
    await sessions.say(log, held, 10**15 + 1, "x")
    assert str((await sessions.last(log)).id) == f"{held.epoch}-{10**15 + 1}"


@pytest.mark.parametrize("opener", ["claim", "message", "stop", "abandon", "reap_cancelled", "reap_failed"])
async def test_prev_is_in_the_first_event_of_every_epoch(opener: str, log: Log) -> None:
    """Whoever opens an epoch names the id before it in the epoch's first event."""
    opened = await sessions.create(log)
    assert (await sessions.last(log)).prev == START
    before = opened.last
    if opener in ("reap_cancelled", "reap_failed", "message"):
        held = await sessions.claim(log)
        await sessions.say(log, held, 2, "a", "b")
    match opener:
        case "claim":
            await sessions.claim(log)
        case "message":
            await sessions.finish(log, held, 4)
            before = (await sessions.last(log)).id
            await sessions.next_turn(log)
        case "stop":
            await log.stop(SID, "user", "g1")
        case "abandon":
            assert await log.abandon(SID, opened.last.epoch, 0)
        case "reap_cancelled":
            await log.stop(SID, "user", "g1")
            before = (await sessions.last(log)).id
            assert await log.reap(SID, held.epoch, 9, 0)
        case "reap_failed":
            before = (await sessions.last(log)).id
            assert await log.reap(SID, held.epoch, 1, 0)
    newest = await sessions.last(log)
    assert newest.id.seq == 1
    assert newest.prev == before


async def test_prev_hash_survives_a_trim(log: Log, redis: Any) -> None:
    """`prev` is the hash's `last`, also when the stream's top was trimmed away."""
    opened = await sessions.create(log)
    await redis.xtrim(keys.events(SID), maxlen=0, approximate=False)
    await sessions.claim(log)
    assert (await sessions.last(log)).prev == opened.last


# -- repeated calls


async def test_idem_create_answers_the_same(log: Log) -> None:
    """A create whose reply was lost is repeated with its nonce, and opens nothing twice."""
    first = await sessions.create(log, nonce="n1")
    again = await sessions.create(log, nonce="n1")
    assert (again.generation, again.last, again.fresh) == (first.generation, first.last, False)
    assert await sessions.types(log) == ["message"]


async def test_create_refuses_other_bodies_and_other_nonces(log: Log) -> None:
    """The nonce of a create stands for one body; a session that exists is opened by nobody else."""
    await sessions.create(log, nonce="n1")
    with pytest.raises(IdempotencyMismatch):
        await log.create(SID, "n1", "other body", [HELLO], FIELDS)
    with pytest.raises(SessionExists):
        await sessions.create(log, nonce="n2")


async def test_idem_msg_opens_one_turn(log: Log) -> None:
    """A message whose reply was lost is repeated with its nonce, and opens one turn, even once that is over."""
    await sessions.finished(log)
    first = await sessions.next_turn(log, nonce="n2")
    held = await sessions.claim(log, generation="g2")
    await sessions.finish(log, held, 2, generation="g2")
    again = await sessions.next_turn(log, nonce="n2")
    assert (first.generation, first.fresh) == ("g2", True)
    assert (again.generation, again.fresh) == ("g2", False)
    assert (await sessions.types(log)).count("message") == 2


async def test_idem_msg_refuses_another_body(log: Log) -> None:
    """The nonce of a message stands for one body."""
    await sessions.finished(log)
    await sessions.next_turn(log, nonce="n2")
    with pytest.raises(IdempotencyMismatch):
        await log.message(SID, "n2", "other body", HELLO, {})


async def test_idem_calls_answer_the_same_id_later(log: Log) -> None:
    """A repeated create or message is answered with the id of the turn it opened, not with where the log is now: a
    client that reads on from that id must not miss what was said in between."""
    first = await sessions.create(log, nonce="n1")
    held = await sessions.claim(log)
    await sessions.say(log, held, 2, "a", "b")
    assert (await sessions.create(log, nonce="n1")).last == first.last


async def test_idem_claim_answers_the_same(log: Log) -> None:
    """A claim whose reply was lost is repeated with its token, and is still the same claim."""
    await sessions.create(log)
    token = new_token()
    first = await log.claim(SID, token, "g1", "w1")
    assert first is not None
    assert await log.claim(SID, token, "g1", "w1") == first
    assert (await sessions.types(log)).count("generation.started") == 1


async def test_message_while_live_is_refused(log: Log) -> None:
    """One generation at a time: the next turn waits for the end of this one."""
    await sessions.create(log)
    with pytest.raises(GenerationRunning):
        await sessions.next_turn(log)


# -- the pen


async def test_claim_gid_takes_only_the_generation_that_was_queued(log: Log) -> None:
    """A job that comes late does not claim a newer generation than its own."""
    await sessions.finished(log)
    await sessions.next_turn(log)
    assert await log.claim(SID, new_token(), "g1", "w1") is None
    assert await log.claim(SID, new_token(), "g2", "w1") is not None


async def test_claim_only_of_a_queued_generation(log: Log) -> None:
    """One pen-holder at a time."""
    await sessions.started(log)
    assert await log.claim(SID, new_token(), "g1", "w2") is None


async def test_append_by_a_stranger_is_fenced(log: Log) -> None:
    """A token that does not hold the pen writes nothing, and is told the epoch of who does; no token never holds."""
    held = await sessions.started(log)
    for token in (new_token(), ""):
        outcome, value, *_ = await log.append(SID, token, held.epoch, 2, sessions.deltas("x"))
        assert (outcome, int(value)) == ("FENCED", held.epoch)
    assert await sessions.texts(log) == []


async def test_append_after_a_takeover_is_fenced(log: Log) -> None:
    """Once the reaper gave the generation away, its old holder writes nothing more, claimed again or not."""
    held = await sessions.started(log)
    assert await log.reap(SID, held.epoch, 9, 0)
    assert (await log.append(SID, held.token, held.epoch, 2, sessions.deltas("x")))[0] == "FENCED"
    second = await sessions.claim(log, worker="w2")
    outcome, value, *_ = await log.append(SID, held.token, held.epoch, 2, sessions.deltas("x"))
    assert (outcome, int(value)) == ("FENCED", second.epoch)
    assert await sessions.texts(log) == []


async def test_append_of_an_older_epoch_is_fenced_though_the_token_is_known(log: Log) -> None:
    """A duplicate of a claim that arrives after a takeover opens a new epoch for the old token: the writer, still in
    its old epoch, is fenced, and not asked for ever to say again what it never said."""
    await sessions.create(log)
    token = new_token()
    first = await log.claim(SID, token, "g1", "w1")
    assert first is not None
    assert await log.reap(SID, first.epoch, 9, 0)
    second = await log.claim(SID, token, "g1", "w1")
    assert second is not None
    outcome, value, *_ = await log.append(SID, token, first.epoch, 2, sessions.deltas("x"))
    assert (outcome, int(value)) == ("FENCED", second.epoch)


async def test_append_repeated_never_doubles(log: Log) -> None:
    """What is in the log already is skipped, in whatever batches it comes again."""
    held = await sessions.started(log)
    await sessions.say(log, held, 2, "a", "b")
    await sessions.say(log, held, 2, "a", "b")
    await sessions.say(log, held, 3, "b", "c")
    await sessions.say(log, held, 2, "a")
    assert await sessions.texts(log) == ["a", "b", "c"]


async def test_append_ahead_of_the_log_is_told_behind(log: Log) -> None:
    """A batch that would leave a hole is refused, with the last seq there is."""
    held = await sessions.started(log)
    outcome, value, *_ = await log.append(SID, held.token, held.epoch, 4, sessions.deltas("c"))
    assert (outcome, value) == ("BEHIND", 1)
    assert await sessions.texts(log) == []


async def test_finish_keep_token_answers_a_repeat_of_the_end(log: Log) -> None:
    """The last append, repeated after a lost reply, is OK, and the generation has one terminal."""
    held = await sessions.finished(log, "a")
    await sessions.finish(log, held, 3)
    assert (await sessions.types(log)).count(sessions.COMPLETED) == 1


async def test_append_after_the_end_is_refused(log: Log) -> None:
    """After its terminal a generation says nothing new."""
    held = await sessions.finished(log)
    assert (await log.append(SID, held.token, held.epoch, 3, sessions.deltas("x")))[0] == "ENDED"
    assert (await sessions.last(log)).type == sessions.COMPLETED


async def test_append_to_nothing_says_gone(log: Log, redis: Any) -> None:
    """Where the session was deleted, or Redis lost it, its writer is told so."""
    held = await sessions.started(log)
    await redis.delete(*keys.session_keys(SID))
    assert (await log.append(SID, held.token, held.epoch, 2, sessions.deltas("x")))[0] == "GONE"
    await sessions.started(log, "s2")
    await log.delete("s2")
    assert (await log.append("s2", held.token, held.epoch, 2, sessions.deltas("x")))[0] == "GONE"


async def test_state_in_the_hash_follows_the_events(log: Log) -> None:
    """A question makes the session wait, its answer makes it run, in the script that appends them."""
    held = await sessions.started(log)
    await log.append(SID, held.token, held.epoch, 2, [sessions.question("q1")])
    view = await log.view(SID)
    assert view is not None
    assert (view.state, view.question) == ("waiting", "q1")
    await log.append(SID, held.token, held.epoch, 3, [("answer", encode({"id": "q1", "text": "yes"}))])
    view = await log.view(SID)
    assert view is not None
    assert (view.state, view.question, view.answer) == ("running", "", "")
