"""A process whose log goes into a file, to be read by a test."""

import subprocess
import sys
from pathlib import Path

from tests.support.system import ROOT, Process


class Loud(Process):
    """`environment` is all of its environment."""

    def __init__(self, module: str, environment: dict[str, str], log: Path, level: str = "debug") -> None:
        super().__init__(module, {**environment, "HOLDFAST_LOG_LEVEL": level})
        self._log = log

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", self._module], env=self._environment, cwd=ROOT, stdout=log, stderr=log
            )
