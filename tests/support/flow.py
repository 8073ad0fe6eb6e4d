"""Everything a session can go through, once: what works on one Redis must work on any."""

import asyncio
from typing import Any

import httpx

from shared.ids import EventId
from tests.support.sse import SSE, Frame, events_path, read_all, text_of
from worker.pipelines import Run, pipeline
from worker.providers.demo import lorem

WITHIN_S = 20


COLOUR = "flow-colour"


@pipeline(COLOUR)
async def _colour(run: Run) -> None:
    await run.text("You like " + await run.ask("Which colour?"))


async def whole_flow(base: str) -> None:
    """Through one node: a generation with readers, a resume, the next turn, a stop, a question, the list, a deletion.

    Workers that are processes of their own need this module among HOLDFAST_PIPELINES.
    """
    async with asyncio.timeout(3 * WITHIN_S), httpx.AsyncClient(base_url=base, timeout=WITHIN_S) as client:
        sid = await _streamed(base, client)
        await _next_turn(base, client, sid)
        await _stopped(base, client)
        await _asked(base, client)
        await _many_at_once(base, client)
        await _listed_and_deleted(base, client, sid)


async def create(client: httpx.AsyncClient, **body: Any) -> str:
    response = await client.post("/v1/sessions", json={"model": "demo/lorem", "input": "hello", **body})
    assert response.status_code == 201, response.text
    return str(response.json()["id"])


def speech(tokens: int, rate: float = 0.0, seed: int = 0) -> dict[str, Any]:
    return {"options": {"tokens": tokens, "rate": rate, "seed": seed}}


async def _streamed(base: str, client: httpx.AsyncClient) -> str:
    sid = await create(client, **speech(80, 200))
    one, other = await asyncio.gather(read_all(base, sid, merge=0), read_all(base, sid, merge=0))
    assert text_of(one) == text_of(other) == "".join(lorem(80))
    ids = [EventId.parse(frame.id) for frame in one if frame.id]
    rest = await read_all(base, sid, str(ids[len(ids) // 2]), merge=0)
    assert [EventId.parse(frame.id) for frame in rest if frame.id] == ids[len(ids) // 2 + 1 :]
    assert await read_all(base, sid, str(ids[-1])) == []
    return sid


async def _next_turn(base: str, client: httpx.AsyncClient, sid: str) -> None:
    response = await client.post(f"/v1/sessions/{sid}/messages", json={"input": "again", "model": "demo/echo"})
    assert response.status_code == 201, response.text
    frames = await read_all(base, sid)
    assert [frame.type for frame in frames].count("generation.completed") == 2
    shown = (await client.get(f"/v1/sessions/{sid}")).json()
    assert shown["state"] == "completed"
    assert shown["last_event_id"] == frames[-1].id


async def _stopped(base: str, client: httpx.AsyncClient) -> None:
    sid = await create(client, **speech(10_000, 100))
    await first_of(base, sid, "text.delta")
    response = await client.post(f"/v1/sessions/{sid}/stop", json={"wait_s": 5})
    assert response.json()["state"] == "cancelled", response.text
    assert (await read_all(base, sid))[-1].type == "generation.cancelled"


async def _asked(base: str, client: httpx.AsyncClient) -> None:
    sid = await create(client, pipeline=COLOUR)
    asked = await first_of(base, sid, "question")
    answer = {"question": asked.data["id"], "text": "green"}
    assert (await client.post(f"/v1/sessions/{sid}/answer", json=answer)).status_code == 202
    assert "green" in text_of(await read_all(base, sid))


async def _many_at_once(base: str, client: httpx.AsyncClient) -> None:
    """Sessions that lie anywhere."""
    sids = await asyncio.gather(*(create(client, **speech(20, 100, seed)) for seed in range(12)))
    streams = await asyncio.gather(*(read_all(base, sid) for sid in sids))
    assert [text_of(frames) for frames in streams] == ["".join(lorem(20, seed)) for seed in range(12)]


async def _listed_and_deleted(base: str, client: httpx.AsyncClient, sid: str) -> None:
    def ids(response: httpx.Response) -> list[str]:
        return [session["id"] for session in response.json()["sessions"]]

    assert sid in ids(await client.get("/v1/sessions?limit=100"))
    assert (await client.delete(f"/v1/sessions/{sid}")).status_code == 204
    assert (await client.get(f"/v1/sessions/{sid}")).status_code == 404
    assert sid not in ids(await client.get("/v1/sessions?limit=100"))


async def first_of(base: str, sid: str, kind: str) -> Frame:
    """The first event of a kind, as soon as it is there."""
    async with asyncio.timeout(WITHIN_S), SSE(base, events_path(sid)) as stream:
        async for frame in stream.frames():
            if frame.type == kind:
                return frame
    raise AssertionError(f"the stream ended without {kind}")
