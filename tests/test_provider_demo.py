"""The demo models, the registry, and the small parts all providers are made of."""

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UnknownModel
from tests.upstream_fixtures import failed, said
from worker.providers.base import Code, Finish, ModelRequest, Part, ProviderError, Text, Usage
from worker.providers.demo import DEFAULT_TOKENS, Demo, lorem, words_of
from worker.providers.registry import DEFAULT_SOURCES, ModelSource, Providers
from worker.providers.text import Surrogates
from worker.providers.watchdog import watched

MS = 0.001


def asked(model: str, content: object = "Say it back", **options: object) -> ModelRequest:
    messages: list[dict[str, Any]] = [{"role": "user", "content": content}]
    return ModelRequest(model, messages, options=options)


# -- demo


async def test_lorem_says_what_lorem_computes() -> None:
    parts = [part async for part in Demo().stream(asked("lorem", tokens=40, seed=7))]
    assert parts == [*map(Text, lorem(40, 7)), Usage(3, 40), Finish("stop")]


def test_lorem_is_the_same_everywhere() -> None:
    assert lorem() == lorem(DEFAULT_TOKENS, 0)
    assert lorem(5, 1) == ["Ends", " holds", " cursor", " or", " shore."]
    assert lorem(50, 1) != lorem(50, 2)
    assert all(lorem(500, 3))
    assert lorem(0) == []


@given(st.text())
def test_words_joined_are_the_text(text: str) -> None:
    assert "".join(words_of(text)) == text


async def test_echo_says_the_last_user_message() -> None:
    request = ModelRequest(
        "echo",
        [
            {"role": "user", "content": "first"},
            {"role": "assistant", "content": "first"},
            {"role": "user", "content": " Two  words\n"},
        ],
    )
    parts = [part async for part in Demo().stream(request)]
    assert parts == [Text(" Two"), Text("  words\n"), Usage(4, 2), Finish("stop")]


async def test_echo_is_cut_by_tokens() -> None:
    assert await said(Demo(), asked("echo", tokens=2)) == [Text("Say it"), Usage(3, 2), Finish("length")]


async def test_echo_reads_content_parts() -> None:
    content = [{"type": "text", "text": "seen"}, {"type": "image_url", "image_url": "x"}]
    assert (await said(Demo(), asked("echo", content)))[0] == Text("seen")


@pytest.mark.parametrize(
    "options",
    [
        {"tokens": -1}, {"tokens": "9"}, {"tokens": True}, {"tokens": 1.5}, {"tokens": 10**9},
        {"rate": -1}, {"rate": float("inf")}, {"rate": float("nan")}, {"rate": "fast"}, {"seed": "x"}, {"speed": 1},
    ],
)  # fmt: skip
async def test_wrong_options_are_refused(options: dict[str, object]) -> None:
    assert (await failed(Demo(), asked("lorem", **options))).code is Code.INVALID_REQUEST


async def test_echo_says_what_a_tool_gave_back() -> None:
    """Where that is what was said last: a round of tools ends with words."""
    said = [{"role": "user", "content": "weather?"}, {"role": "tool", "tool_call_id": "t1", "content": "rain"}]
    parts = [part async for part in Demo().stream(ModelRequest("echo", said))]
    assert parts[0] == Text("rain")


async def test_a_limit_cuts_the_demo_off_as_it_does_the_others() -> None:
    """By words; the finish reason says so, unless all of it was said."""
    for limit, reason in ((3, "length"), (4, "stop")):
        parts = [part async for part in Demo().stream(asked("lorem", tokens=4, max_tokens=limit))]
        assert parts[:-2] == [*map(Text, lorem(4)[:limit])]
        assert parts[-1] == Finish(reason)  # type: ignore[arg-type]
    assert (await failed(Demo(), asked("lorem", max_tokens=0))).code is Code.INVALID_REQUEST


async def test_options_of_real_models_change_nothing_here() -> None:
    """A client sends them to whichever model it tries; one that no model has is refused still."""
    parts = [part async for part in Demo().stream(asked("lorem", tokens=2, temperature=0.5, tool_choice="auto"))]
    assert parts[:-2] == [*map(Text, lorem(2))]
    assert (await failed(Demo(), asked("lorem", tempratur=1))).code is Code.INVALID_REQUEST


async def test_an_unknown_demo_model() -> None:
    assert (await failed(Demo(), asked("poet"))).code is Code.NOT_FOUND


async def test_echo_needs_somebody_to_echo() -> None:
    assert (await failed(Demo(), ModelRequest("echo", []))).code is Code.INVALID_REQUEST


async def test_the_rate_holds_though_the_taker_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Absolute deadlines: 51 words at 500 a second take 100 ms, also when taking each of them costs time."""
    now = [0.0]

    async def sleep(delay_s: float) -> None:
        now[0] += delay_s

    with monkeypatch.context() as patch:
        patch.setattr(asyncio.get_running_loop(), "time", lambda: now[0])
        patch.setattr(asyncio, "sleep", sleep)
        async for part in Demo().stream(asked("lorem", tokens=51, rate=500)):
            now[0] += 1 * MS if isinstance(part, Text) else 0
    assert now[0] == pytest.approx(101 * MS)


async def test_lorem_lets_others_run() -> None:
    """As fast as possible is not all at once."""
    ran = 0

    async def other() -> None:
        nonlocal ran
        while True:
            ran += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    async for _ in Demo().stream(asked("lorem", tokens=100)):
        pass
    task.cancel()
    assert ran >= 100


# -- registry


def test_importing_the_registry_imports_no_sdk() -> None:
    code = (
        "import sys, worker.providers.registry as r;"
        "r.Providers.from_settings(1.0).get('demo/lorem');"
        "sys.exit(bool({'openai', 'anthropic', 'httpx2'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


async def test_a_model_is_provider_and_name() -> None:
    providers = Providers.from_settings(1.0, models={**DEFAULT_SOURCES, "local": ModelSource("demo")})
    provider, name = providers.get("local/org/model:8b")
    assert name == "org/model:8b"
    assert providers.get("local/x")[0] is provider
    for model in ("", "local", "local/", "/x", "nobody/x"):
        with pytest.raises(UnknownModel):
            providers.get(model)
    await providers.warm()
    await providers.aclose()
    await providers.aclose()


# -- watchdog


async def slowly(gate: asyncio.Event, *items: str) -> AsyncIterator[str]:
    """The items, then nothing until the gate opens."""
    for item in items:
        yield item
    await gate.wait()
    yield "late"


async def test_watchdog_bites_when_nothing_comes() -> None:
    heard = []
    watching = watched(slowly(asyncio.Event(), "a", "b"), 20 * MS)
    with pytest.raises(ProviderError) as caught:
        heard += [item async for item in watching]
    assert caught.value.code is Code.IDLE_TIMEOUT
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_watchdog_waits_for_a_slow_consumer() -> None:
    """Only waiting for the provider counts."""
    gate = asyncio.Event()
    gate.set()
    heard = []
    async for item in watched(slowly(gate, "a", "b"), 10 * MS):
        await asyncio.sleep(25 * MS)
        heard.append(item)
    assert heard == ["a", "b", "late"]


async def test_watchdog_looks_at_each_wait_alone() -> None:
    """Many waits, each short enough, may take longer than the limit together."""

    async def steady() -> AsyncIterator[int]:
        for n in range(20):
            await asyncio.sleep(15 * MS)
            yield n

    assert [n async for n in watched(steady(), 200 * MS)] == list(range(20))


async def test_watchdog_lets_a_cancellation_pass() -> None:
    task = asyncio.ensure_future(anext(watched(slowly(asyncio.Event()), 60)))
    asyncio.get_running_loop().call_later(5 * MS, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_that_comes_with_the_bite_wins() -> None:
    """Both timers are due in one turn of the loop, the watchdog's first: whoever cancels must not wait in vain."""
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(anext(watched(slowly(asyncio.Event()), 20 * MS)))
    loop.call_later(10 * MS, time.sleep, 25 * MS)
    loop.call_later(25 * MS, task.cancel)
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_watchdog_leaves_no_timer() -> None:
    loop = asyncio.get_running_loop()
    before = len(loop._scheduled)  # type: ignore[attr-defined]  # there is no public way to see timers
    watching = watched(slowly(asyncio.Event(), "a"), 60)
    await anext(watching)
    await watching.aclose()
    timers = [timer for timer in loop._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    assert len(timers) <= before


# -- text


@given(st.text(st.characters(codec="utf-8")), st.randoms())
def test_text_cut_between_utf_16_units_is_whole_again(text: str, chance: Any) -> None:
    raw = text.encode("utf-16-le")
    units = [raw[n : n + 2].decode("utf-16-le", "surrogatepass") for n in range(0, len(raw), 2)]
    joiner, out = Surrogates(), []
    while units:
        count = chance.randint(1, 4)
        out.append(joiner.feed("".join(units[:count])))
        del units[:count]
    assert "".join(out) + joiner.flush() == text


@given(st.lists(st.text(st.sampled_from("a\ud83d\udc19é"), max_size=3)))
def test_text_is_always_valid(pieces: list[str]) -> None:
    joiner = Surrogates()
    out = [*(joiner.feed(piece) for piece in pieces), joiner.flush()]
    "".join(out).encode()
    assert all(piece.encode() is not None for piece in out)


def test_lone_halves_become_replacement_characters() -> None:
    joiner = Surrogates()
    assert joiner.feed("\udc19a\ud83db\ud83d") == "\ufffda\ufffdb"
    assert joiner.flush() == "\ufffd"
    assert joiner.flush() == ""


def test_parts_are_values() -> None:
    part: Part = Text("a")
    assert part == Text("a")
    with pytest.raises(AttributeError):
        part.text = "b"  # type: ignore[misc]
