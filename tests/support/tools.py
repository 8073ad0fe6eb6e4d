"""Programs that some tests need and a newcomer's machine may lack."""

import os
import shutil
from pathlib import Path

import pytest

NODE_MODULES = Path(__file__).parents[1] / "node" / "node_modules"


def need(found: str | None, what: str) -> str:
    """Give what was found; otherwise skip the test, or fail it where everything must be there (`.ci/run`)."""
    if found is not None:
        return found
    if os.environ.get("HOLDFAST_TEST_REQUIRE_ALL"):
        pytest.fail(f"{what} is missing")
    pytest.skip(f"{what} is missing: run .ci/run, which installs it")


def chromium() -> str:
    return need(shutil.which("chromium") or shutil.which("google-chrome"), "Chromium")


def node() -> str:
    return need(_if_there(NODE_MODULES / ".bin" / "node"), "Node 22 in tests/node/node_modules")


def nginx() -> str:
    return need(nginx_if_there(), "nginx")


def nginx_if_there() -> str | None:
    return shutil.which("nginx", path=os.pathsep.join([*os.get_exec_path(), "/usr/sbin"]))


def openssl() -> str:
    return need(shutil.which("openssl"), "openssl")


def npm_program(name: str) -> str:
    return need(_if_there(NODE_MODULES / ".bin" / name), f"{name} in tests/node/node_modules")


def _if_there(path: Path) -> str | None:
    return str(path) if path.exists() else None


def redis_cli() -> str:
    return need(shutil.which("redis-cli"), "redis-cli")
