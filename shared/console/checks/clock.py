"""The clocks of this machine and of Redis."""

import time
from typing import Any

from shared.console.checks.findings import Finding, Subject, bad, ok, warn
from shared.console.render import span

BAD_MS, WARN_MS = 5_000, 500
TRIES = 5


async def check_clock(subject: Subject) -> list[Finding]:
    """By the quickest of several questions: what a question takes is not known more exactly than by half."""
    found = [min([await skew_ms(client) for _ in range(TRIES)], key=lambda pair: pair[1]) for client in subject.servers]
    skew, doubt = max(found, key=lambda pair: abs(pair[0]))
    text = f"Redis is {span(abs(skew))} {'ahead of' if skew > 0 else 'behind'} this machine"
    remedy = "run NTP (chrony, systemd-timesyncd) here and there: queue order, tokens and what people read go by clocks"
    if abs(skew) - doubt > BAD_MS:
        return [bad("clock", text, remedy)]
    if abs(skew) - doubt > WARN_MS:
        return [warn("clock", text, remedy)]
    return [ok("clock", "this machine and Redis agree" + (f", within {span(abs(skew))}" if abs(skew) >= 1 else ""))]


async def skew_ms(client: Any) -> tuple[float, float]:
    """By how many ms Redis is ahead, and how far that may be wrong."""
    before = time.time()
    seconds, micros = await client.time()
    after = time.time()
    return (int(seconds) + int(micros) / 1e6 - (before + after) / 2) * 1000, (after - before) * 500
