"""Settings, as this machine has them: those that cannot be, and those that do not go together."""

from shared.console.checks.findings import Finding, Subject, bad, ok, warn
from shared.errors import ConfigurationError
from shared.exposure import check_exposure, is_loopback
from shared.settings import Settings
from shared.topology.url import parse


async def check_settings(subject: Subject) -> list[Finding]:
    settings = subject.settings
    if settings is None:
        return [
            bad("settings", subject.wrong, "unset or correct it: nodes and workers with this environment do not start")
        ]
    found = [*_exposure(settings), *_pairs(settings), *_way(subject.url)]
    return found or [ok("settings", "those of this environment go together")]


def _exposure(settings: Settings) -> list[Finding]:
    try:
        check_exposure(settings)
    except ConfigurationError as error:
        return [bad("settings", error.message.partition(": ")[0], error.message.partition(": ")[2])]
    return []


def _pairs(settings: Settings) -> list[Finding]:
    found = [
        warn("settings", _more(settings, longer, shorter, why), f"{_name(longer)} below {_name(shorter)}")
        for longer, shorter, why in (*_TIMES, *_SIZES)
        if getattr(settings, longer) > getattr(settings, shorter)
    ]
    if settings.heartbeat_s * 2 > settings.lease_s:
        text = _more(settings, "heartbeat_s", "lease_s", "a worker that is late once is taken for dead", "half of ")
        found.append(bad("settings", text, "a lease of at least three heartbeats: 2 and 6"))
    return found


_TIMES = (
    ("redis_timeout_s", "lease_s", "one command that hangs costs the lease"),
    ("idle_timeout_s", "generation_timeout_s", "a generation is ended before its provider is found to be silent"),
    ("question_timeout_s", "generation_timeout_s", "questions end with their generation"),
)
_SIZES = (
    ("max_event_bytes", "max_output_bytes", "one event may be larger than all that a generation may say"),
    ("max_output_bytes", "worker_output_bytes", "one generation may be larger than what a worker keeps of all"),
    ("flush_bytes", "max_event_bytes", "a delta may be larger than an event may be"),
)
"""The first of two is not to be more than the second, because otherwise …"""


def _more(settings: Settings, first: str, second: str, why: str, part: str = "") -> str:
    one, other = getattr(settings, first), getattr(settings, second)
    return f"{_name(first)}={one:g} is more than {part}{_name(second)}={other:g}: {why}"


def _name(setting: str) -> str:
    return f"HOLDFAST_{setting.upper()}"


def _way(url: str) -> list[Finding]:
    at = parse(url)
    far = [host for host, _ in at.addresses if not is_loopback(host)]
    if far and at.password is None:
        return [
            warn("settings", f"Redis at {far[0]} is asked without a password", "a user of its own: deploy/users.acl")
        ]
    return []
