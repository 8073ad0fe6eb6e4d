"""An image without an engine: the steps of a Dockerfile, carried out in a folder."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path

from tests.support.system import ROOT

DOCKERFILE = ROOT / "deploy" / "Dockerfile"


@dataclass
class Stage:
    base: str
    name: str
    steps: list[tuple[str, str]]
    """Instruction and what follows it, in their order; without FROM."""

    def last(self, instruction: str) -> str:
        return [rest for word, rest in self.steps if word == instruction][-1]

    def command(self) -> list[str]:
        """ENTRYPOINT and CMD."""
        return [*json.loads(self.last("ENTRYPOINT")), *json.loads(self.last("CMD"))]

    def healthcheck(self) -> list[str]:
        return list(json.loads(self.last("HEALTHCHECK").partition("CMD ")[2]))

    def environment(self) -> dict[str, str]:
        pairs = (shlex.split(rest) for word, rest in self.steps if word == "ENV")
        return dict(pair.split("=", 1) for each in pairs for pair in each)


def stages(text: str) -> list[Stage]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: list[Stage] = []
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name, []))
        elif word:
            found[-1].steps.append((word, rest.strip()))
    return found


@dataclass
class Image:
    """`root` stands for `/`: absolute paths of the Dockerfile lie below it."""

    root: Path
    environment: dict[str, str] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        return self.root / name.lstrip("/")

    def here(self, text: str) -> str:
        """The same with absolute paths put below the root."""
        return re.sub(r"(?<![\w.}])/(?=(opt|src|app|tmp|run)\b)", f"{self.root}/", text)


def build(root: Path, arguments: Mapping[str, str]) -> Image:
    """Carry out both stages. What would change this machine (its users, its pip) is left out: see `_foreign`.

    `arguments`: for ARG, such as fewer extras.
    """
    first, last = stages(DOCKERFILE.read_text(encoding="utf-8"))
    image = Image(root)
    base = _base(root)
    known = {"PATH": f"{base / 'bin'}:/usr/bin:/bin", "HOME": str(root), **_library(root), **_registry()}
    folder = root
    for word, rest in first.steps:
        if word == "ENV":
            known |= dict(pair.split("=", 1) for pair in shlex.split(rest) if not pair.startswith("PIP_NO_CACHE"))
        elif word == "ARG":
            name, _, default = rest.partition("=")
            known[name] = arguments.get(name, default.strip('"'))
        elif word == "WORKDIR":
            folder = image.path(rest)
            folder.mkdir(parents=True)
        elif word == "COPY":
            _copy_context(rest.split(), folder)
        elif word == "RUN":
            done = subprocess.run(
                ["sh", "-c", image.here(rest)], cwd=folder, env=known, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{rest}\n{done.stdout}\n{done.stderr}"
        else:
            raise AssertionError(f"cannot carry out {word}")
    _second(image, last, base)
    return image


def _second(image: Image, last: Stage, base: Path) -> None:
    """What the second stage takes from the first stays; all else of it goes."""
    taken = [rest.split()[1:] for word, rest in last.steps if word == "COPY" and rest.startswith("--from=build ")]
    assert taken == [["/opt/holdfast", "/opt/holdfast"]]
    for rest in (rest for word, rest in last.steps if word == "RUN"):
        assert _foreign(rest), f"cannot carry out RUN {rest}"
    shutil.rmtree(image.path("/src"))
    shutil.rmtree(image.path("/opt/build"))
    for name in ("pip", "setuptools", "wheel"):
        shutil.rmtree(base / "lib" / f"python3.{sys.version_info.minor}" / "site-packages" / name, ignore_errors=True)
    image.path(last.last("WORKDIR")).mkdir()
    image.path("/tmp").mkdir()
    image.path("/tmp").chmod(0o1777)
    said = {name: image.here(value) for name, value in last.environment().items()}
    said["PATH"] = said["PATH"].replace("$PATH", f"{base / 'bin'}:/usr/bin:/bin")
    image.environment = {**said, **_library(image.root), "HOME": said["PYTHONPATH"], "TMPDIR": str(image.path("/tmp"))}


def _foreign(command: str) -> bool:
    return command.startswith(("pip uninstall ", "groupadd "))


def _copy_context(arguments: list[str], folder: Path) -> None:
    *sources, target = arguments
    for source in sources:
        assert _in_context(source), f"{source} is kept out by .dockerignore"
        came, goes = ROOT / source, folder / (Path(source).name if target == "./" else target)
        if came.is_dir():
            shutil.copytree(came, goes, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(came, goes)


def _in_context(path: str) -> bool:
    """As .dockerignore says: the last line that fits decides."""
    kept = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        if pattern and not line.startswith("#") and (path == pattern or fnmatch(path, pattern)):
            kept = line.startswith("!")
    return kept


def _base(root: Path) -> Path:
    """A Python as in the base image: with pip, and to be run by anybody."""
    python = Path(sys.base_prefix)
    if not all(folder.stat().st_mode & 0o001 for folder in (python, *python.parents)):
        ours, python = python, root / "python"
        shutil.copytree(
            ours, python, symlinks=True, ignore=shutil.ignore_patterns("test", "site-packages", "__pycache__", "*.a")
        )
    base = root / "usr"
    version = f"python3.{sys.version_info.minor}"
    subprocess.run([python / "bin" / version, "-m", "venv", base], check=True)
    return base


def _library(root: Path) -> dict[str, str]:
    """Where a Python that was copied has its shared library."""
    return {"LD_LIBRARY_PATH": str(root / "python" / "lib")} if (root / "python").exists() else {}


def _registry() -> dict[str, str]:
    """How this machine reaches its package registry, and what it has of it already."""
    kept = {"PIP_CACHE_DIR": str(Path.home() / ".cache" / "pip")}
    given = ("PIP_INDEX", "PIP_EXTRA", "PIP_CONFIG", "PIP_CACHE_DIR")
    return kept | {name: value for name, value in os.environ.items() if name.upper().startswith(given)}
