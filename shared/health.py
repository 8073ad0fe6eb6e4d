"""Whether the process of a container is well: `python -m shared.health`, asked by its engine several times a minute.

Nothing but the standard library, so that asking costs next to nothing. Whether a process lives never depends on Redis:
while that is away, workers keep what their generations say, and nodes keep their readers. To start them anew would lose
just that.
"""

import http.client
import os
import sys
import time
from pathlib import Path

STALE_S = 30.0
"""A worker that did not say for so long that it is alive is stuck. Its generations went to others long before."""
ANSWER_S = 3.0
STARTING, READY = "starting", "ready"
"""What a worker's file says: that it runs; and that it has been in touch with Redis, and takes jobs."""


def node_answers(port: int, *, ready: bool = False) -> str | None:
    """What is wrong with the API node on this port of loopback; None: nothing. `ready`: clients may be sent to it."""
    path = "/readyz" if ready else "/livez"
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=ANSWER_S)
    try:
        connection.request("GET", path)
        status = connection.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        return f"no answer on port {port}: {error}"
    finally:
        connection.close()
    return None if status == 200 else f"{path} answered {status}"


def worker_lives(file: Path, *, ready: bool = False) -> str | None:
    """What is wrong with the worker that writes this file; None: nothing. `ready`: it must have begun to take jobs."""
    try:
        age_s, said = time.time() - file.stat().st_mtime, file.read_text(encoding="utf-8")
    except OSError as error:
        return f"no worker writes {file}: {error.strerror}"
    if age_s > STALE_S:
        return f"the worker is stuck: it said nothing for {age_s:.0f} s"
    return f"the worker is {said or STARTING}" if ready and said != READY else None


def main(arguments: list[str]) -> str | None:
    """`node`, `worker`, each may be followed by `ready`; nothing: a worker where its file is, else a node."""
    file = Path(os.environ.get("HOLDFAST_HEALTH_FILE", "/tmp/holdfast-worker"))
    which = arguments or (["worker"] if file.exists() else ["node"])
    ready = which[1:] == ["ready"]
    if which[0] not in ("node", "worker") or (which[1:] and not ready):
        return "usage: python -m shared.health [node | worker] [ready]"
    if which[0] == "worker":
        return worker_lives(file, ready=ready)
    return node_answers(int(os.environ.get("HOLDFAST_PORT", "8000")), ready=ready)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
