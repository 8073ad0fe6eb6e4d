"""The page folds the log as the server does: the same JSON for the same events."""

import json
import random
import subprocess
from pathlib import Path
from typing import Any

from shared.events import Event, encode
from shared.ids import EventId
from shared.transcript import fold
from tests.support.tools import node

MODULE = Path(__file__).parents[1] / "api" / "web" / "transcript.js"
SCRIPT = """
const { Transcript } = await import(process.argv[1]);
let text = "";
for await (const piece of process.stdin) text += piece;
console.log(JSON.stringify(JSON.parse(text).map((events) => Transcript.of(events))));
"""
LOGS = 400


def _data(chance: random.Random, kind: str, generation: str) -> dict[str, Any]:
    some = chance.choice
    data: dict[str, dict[str, Any]] = {
        "message": {
            "content": some(["hi", "ümläut", ""]),
            "generation": generation,
            **some(
                [
                    {"role": "user"},
                    {"role": "system"},
                    {"role": "tool", "tool_call_id": "c1"},
                    {"role": "assistant", "tool_calls": [{"id": "c1", "name": "add", "arguments": {"a": [1]}}]},
                ]
            ),
        },
        "generation.started": {"generation": generation, "attempt": some([1, 1, 2]), "model": "demo/lorem"},
        "text.delta": {"text": some(["a", "b c", "🌊"])},
        "reasoning.delta": {"text": "hm"},
        "status": {"text": some(["A", "B"]), "step": some(["s", "t"]), "state": some(["running", "done"])},
        "tool.call": {"id": some(["c1", "c2"]), "name": "add", "arguments": {"a": []}},
        "tool.result": {"id": some(["c1", "c2"]), "output": some([None, 3]), "error": some([None, "no"])},
        "source": {"title": "Kelp", "url": some([None, "https://example.com"])},
        "data": {"name": "chart", "value": [1, {"x": None}]},
        "question": {"id": "q1", "text": "?", "choices": some([None, ["yes"]]), "expires_at": some([None, 5])},
        "answer": {"id": "q1", "text": some([None, "yes"]), "by": "me"},
        "usage": {"input_tokens": 1, "output_tokens": 2, "reasoning_tokens": 3, "cached_tokens": 0},
        "generation.completed": {"generation": generation, "finish_reason": "stop"},
        "generation.failed": {"generation": generation, "code": "x", "message": "m", "retryable": True},
        "generation.cancelled": {"generation": generation, "by": "user", "confirmed": True},
    }
    return data[kind]


def _log(seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Turns as they may be, with anything in between; sometimes without their head, as after a trim."""
    chance = random.Random(seed)
    inside = ["text.delta", "reasoning.delta", "status", "tool.call", "tool.result", "source", "data", "usage"]
    log: list[tuple[str, dict[str, Any]]] = []
    for n in range(1, chance.randint(2, 4)):
        kinds = [
            *["message"] * chance.randint(1, 3),
            "generation.started",
            *chance.choices([*inside, "generation.started"], k=chance.randint(0, 9)),
        ]
        kinds += chance.choice([[], ["question"], ["question", "answer"]])
        kinds.append(chance.choice(["generation.completed", "generation.failed", "generation.cancelled"]))
        log += [(kind, _data(chance, kind, f"g{n}")) for kind in kinds]
    return log[chance.choice([0, 0, 2]) :]


def test_the_page_and_the_server_fold_alike() -> None:
    """Hundreds of random logs, whole and trimmed: the transcript is the same, to the byte of its JSON."""
    logs = [_log(seed) for seed in range(LOGS)]
    events = json.dumps([[{"type": kind, "data": data} for kind, data in log] for log in logs])
    command = [node(), "--input-type=module", "-e", SCRIPT, str(MODULE)]
    done = subprocess.run(command, input=events, capture_output=True, text=True, check=True, timeout=60)
    for log, theirs in zip(logs, json.loads(done.stdout), strict=True):
        ours = fold([Event(EventId(1, n + 2), kind, encode(data)) for n, (kind, data) in enumerate(log)])
        assert theirs == ours.model_dump(mode="json"), log
