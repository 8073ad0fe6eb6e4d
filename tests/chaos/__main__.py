"""`python -m tests.chaos`: random faults of all kinds against everything, and what came of it.

Prints the seed first: the same seed draws the same faults. Ends with status 0 if nothing was lost.
"""

import argparse
import asyncio
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from shared.telemetry import configure
from tests.bench.crowd import open_files
from tests.chaos.run import chaos, table, totals


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="draws the faults; one at random where none is given")
    parser.add_argument("--faults", type=int, default=200)
    parser.add_argument("--sessions", type=int, default=50, help="at a time")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults with this in their names, such as `redis`")
    given = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if given.seed is None else given.seed
    print(f"seed {seed}, {given.faults} faults, {given.sessions} sessions at a time", flush=True)
    configure("critical", "console")
    place = Path(tempfile.mkdtemp(prefix="holdfast-chaos-"))
    with open_files():
        report = asyncio.run(
            chaos(place, seed=seed, faults=given.faults, sessions=given.sessions, only=given.only, loud=True)
        )
    print(f"\n{table(report)}\n\n{totals(report)}")
    if report.passed:
        shutil.rmtree(place)
    else:
        print(f"what the processes printed is in {place}")
    return 0 if report.passed else 1


if __name__ == "__main__":
    sys.exit(main())
