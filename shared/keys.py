"""Every key Holdfast writes. All keys of one session share the hash tag `{<sid>}`: one Cluster slot each."""

PREFIX = "holdfast"


def events(sid: str) -> str:
    """Stream: the session's log."""
    return f"{PREFIX}:{{{sid}}}:events"


def session(sid: str) -> str:
    """Hash: the session as a person reads it."""
    return f"{PREFIX}:{{{sid}}}:session"


def live(sid: str) -> str:
    """Pub/sub channel: what is appended, as it is appended."""
    return f"{PREFIX}:{{{sid}}}:live"


def stage(sid: str, nonce: str) -> str:
    """Stream: a log that is written anew, until it takes the place of the old one. Expires if it never does."""
    return f"{PREFIX}:{{{sid}}}:stage:{nonce}"


def session_keys(sid: str) -> list[str]:
    """KEYS of every script: events, session, live. Those of compaction have a stage besides."""
    return [events(sid), session(sid), live(sid)]


LIVE_INDEX = f"{PREFIX}:live"
"""Sorted set of session ids by ms: sessions that may have a generation to look after."""


def owned(principal: str) -> str:
    """Sorted set of session ids by creation ms: one principal's sessions."""
    return f"{PREFIX}:sessions:{principal}"


def running(principal: str) -> str:
    """Sorted set of session ids by ms of their newest turn: one principal's sessions that may be live."""
    return f"{PREFIX}:running:{principal}"


RATES = f"{PREFIX}:rate"
"""Prefix of the counters of turns a minute; each expires within two minutes."""


def worker(worker_id: str) -> str:
    """String that lives while its worker does: the lease of all generations it holds.

    All leases share a Cluster slot: whoever can refresh its own can see those of the others. Otherwise a master that
    was away for a while would make dead workers of those whose leases it has.
    """
    return f"{PREFIX}:worker:{{lease}}:{worker_id}"


WORKER_INDEX = f"{PREFIX}:workers:{{lease}}"
"""Sorted set of worker ids by ms of their newest heartbeat: where to look for leases. It proves nothing."""


def control(worker_id: str) -> str:
    """Pub/sub channel of one worker: stop, answer."""
    return f"{PREFIX}:worker:{worker_id}:control"


WORKERS = f"{PREFIX}:worker:*"
QUEUE = f"{PREFIX}:queue"
"""Sorted set of arq's job ids: what no worker has taken yet. Waiting workers block on it."""
