"""The image of `deploy/Dockerfile`, made without an engine: its steps in a clean folder, its processes as a user who
may write nothing there."""

import asyncio
import contextlib
import hashlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from tests.support.dockerfile import DOCKERFILE, Image, build, stages
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer, redis_server
from tests.support.sse import read_all, text_of
from tests.support.system import ROOT
from worker.providers.demo import lorem

pytestmark = pytest.mark.timeout(600)

UID = 10001
LAST = stages(DOCKERFILE.read_text())[-1]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    with tempfile.TemporaryDirectory(prefix="holdfast-image-") as folder:
        root = Path(folder)
        root.chmod(0o755)
        yield build(root, {})


@pytest.fixture
def secrets(tmp_path: Path) -> Iterator[tuple[Path, str]]:
    """What deploy/secrets.sh makes, and the key of alice."""
    with tempfile.TemporaryDirectory(prefix="holdfast-secrets-") as folder:
        for name in ("secrets.sh", "users.acl"):
            shutil.copy(ROOT / "deploy" / name, folder)
        Path(folder).chmod(0o755)
        told = subprocess.run([f"{folder}/secrets.sh", "alice"], capture_output=True, text=True, check=True).stdout
        (Path(folder) / "secrets").chmod(0o755)  # what a container mounts is found without passing here
        yield Path(folder) / "secrets", told.splitlines()[0].rsplit(" ", 1)[1]


def env_file(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


class Container:
    """A process of the image as docker-compose.yml starts the service, but for its addresses."""

    def __init__(self, image: Image, service: str, secrets: Path, changes: dict[str, str]) -> None:
        said = COMPOSE[service]
        self._image = image
        self.stops_within_s = seconds(said["stop_grace_period"])
        self._health = said["healthcheck"]["test"][1:]
        self._command = [*json.loads(LAST.last("ENTRYPOINT")), *said["command"]]
        given: dict[str, str] = {}
        for file in said["env_file"]:
            given |= env_file(secrets / Path(file).name)
        given |= said["environment"]
        given |= changes
        self.environment = {**image.environment, **given}
        self._child: subprocess.Popen[bytes] | None = None

    def _as_user(self) -> dict[str, Any]:
        return {"user": UID, "group": UID, "extra_groups": []} if os.geteuid() == 0 else {}

    def start(self) -> None:
        self._child = subprocess.Popen(
            self._command_of(self._command), env=self.environment, cwd=self._image.path("/app"), **self._as_user()
        )

    def _command_of(self, command: list[str]) -> list[str]:
        """Found as in the container: by its PATH, not by ours."""
        found = shutil.which(command[0], path=self.environment["PATH"])
        assert found is not None, command
        return [found, *command[1:]]

    @property
    def pid(self) -> int:
        assert self._child is not None
        return self._child.pid

    def asked(self, check: list[str]) -> str:
        """What its health check says against it."""
        told: subprocess.CompletedProcess[str] = subprocess.run(
            self._command_of(check),
            env=self.environment,
            cwd=self._image.path("/app"),
            capture_output=True,
            text=True,
            check=False,
            **self._as_user(),
        )
        assert bool(told.stderr) == bool(told.returncode), told
        return told.stderr

    async def well(self) -> None:
        async with asyncio.timeout(60):
            while complaint := await asyncio.to_thread(self.asked, self._health):
                assert self._child is not None
                assert self._child.poll() is None, complaint
                await asyncio.sleep(0.1)

    async def stopped(self) -> int:
        """By the signal of the image, within the time it is given."""
        assert self._child is not None
        self._child.send_signal(signal.Signals[LAST.last("STOPSIGNAL")])
        return await asyncio.to_thread(self._child.wait, self.stops_within_s)

    def kill(self) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.kill()
            self._child.wait()


@contextlib.contextmanager
def redis_of(secrets: Path, tmp_path: Path) -> Iterator[RedisServer]:
    """As the service `redis` runs it, but for the folder it keeps its file in."""
    users = ("--aclfile", str(secrets / "redis" / "users.acl"), "--dir", str(tmp_path))
    with redis_server(*users, configuration=ROOT / "deploy" / "redis.conf") as server:
        yield server


@contextlib.asynccontextmanager
async def deployed(image: Image, secrets: Path, redis: RedisServer) -> AsyncIterator[tuple[str, list[Container]]]:
    """A node and a worker; gives the node's URL."""
    port, metrics = free_port(), free_port()
    url = env_file(secrets / "api.env")["HOLDFAST_REDIS_URL"].replace("@redis:6379", f"@127.0.0.1:{redis.port}")
    here = {"HOLDFAST_REDIS_URL": url, "HOLDFAST_HOST": "127.0.0.1"}
    keys = {"HOLDFAST_KEYS_FILE": str(secrets / "keys" / "keys.json"), "HOLDFAST_PORT": str(port)}
    loopback = {"HOLDFAST_METRICS_HOST": "127.0.0.1", "HOLDFAST_METRICS_PORT": str(metrics)}
    processes = [
        Container(image, "api-1", secrets, {**here, **keys}),
        Container(image, "worker-1", secrets, {**here, **loopback}),
    ]
    try:
        for process in processes:
            process.start()
        for process in processes:
            await process.well()
        yield f"http://127.0.0.1:{port}", processes
    finally:
        for process in processes:
            process.kill()


def listed(folder: Path) -> dict[str, tuple[int, int]]:
    """Every file below, with its size and time."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}


async def test_the_image_serves_and_leaves_in_time(image: Image, secrets: tuple[Path, str], tmp_path: Path) -> None:
    """Made from nothing but what the Dockerfile copies, with the secrets of deploy/secrets.sh and the settings of
    docker-compose.yml: healthy, answers alice, writes nothing but to /tmp, and on its signal both end with 0 in the
    time that compose gives them, under a reader and in the middle of an answer."""
    made, key = secrets
    before = listed(image.path("/opt"))
    with redis_of(made, tmp_path) as redis:
        async with deployed(image, made, redis) as (url, processes):
            headers = {"Authorization": f"Bearer {key}"}
            async with httpx.AsyncClient(base_url=url, headers=headers) as client:
                assert (await client.get("/v1/sessions", headers={"Authorization": "Bearer hf_x"})).status_code == 401
                short = {"input": "hello", "model": "demo/lorem", "options": {"tokens": 20}}
                sid = (await client.post("/v1/sessions", json=short)).json()["id"]
                token = (await client.post(f"/v1/sessions/{sid}/token")).json()["stream_token"]
                frames = await read_all(url, sid, token=token)
                assert text_of(frames) == "".join(lorem(20))
                long = {**short, "options": {"tokens": 100_000, "rate": 20}}
                other = (await client.post("/v1/sessions", json=long)).json()["id"]
                async with client.stream("GET", f"/v1/sessions/{other}/events") as stream:
                    coming = stream.aiter_lines()
                    while "text.delta" not in await anext(coming):
                        pass
                    assert [process.asked(LAST.healthcheck()) for process in processes] == ["", ""]
                    assert [await process.stopped() for process in processes] == [0, 0]
                    with contextlib.suppress(httpx.TransportError):
                        async for _ in coming:
                            pass
    assert listed(image.path("/opt")) == before
    assert list(image.path("/app").iterdir()) == []


def test_the_image_has_what_was_tested_and_no_tools(image: Image) -> None:
    """Each distribution in it is the version of constraints.txt; there is no pip, no compiler of packages, no test."""
    site = next(image.path("/opt/holdfast/lib").glob("python3*/site-packages"))
    there = {each.name.removesuffix(".dist-info").replace("-", "==", 1).lower() for each in site.glob("*.dist-info")}
    pinned = {line.lower().replace("-", "_") for line in (ROOT / "constraints.txt").read_text().split()}
    assert {each.replace("-", "_") for each in there if not each.startswith("holdfast==")} <= pinned
    assert not {"pip", "setuptools", "wheel", "hatchling", "pytest"} & {each.split("==")[0] for each in there}
    assert [path.name for path in image.path("/opt").iterdir()] == ["holdfast"]


def test_the_image_refuses_to_serve_everybody(image: Image) -> None:
    """Started with nothing said, a node that anybody could reach ends at once and says what is missing."""
    environment = {**image.environment, "HOLDFAST_PORT": str(free_port())}
    command = str(image.path("/opt/holdfast/bin") / LAST.command()[0])
    told = subprocess.run(
        [command, *LAST.command()[1:]], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert told.returncode == 2
    assert "HOLDFAST_AUTH is none" in told.stderr


def test_the_image_is_run_by_nobody_in_particular() -> None:
    """Its user is a number, so that Kubernetes can see that it is not root; and its signal is one that is obeyed."""
    assert LAST.last("USER") == f"{UID}:{UID}"
    assert LAST.last("STOPSIGNAL") == "SIGTERM"
    assert not LAST.name
    assert {stage.base for stage in stages(DOCKERFILE.read_text())} == {LAST.base}


def test_secrets_are_made_once(secrets: tuple[Path, str]) -> None:
    """Passwords are for their owner alone, what containers read holds only hashes, and a second run changes nothing."""
    made, key = secrets
    private = sorted(file.name for file in made.glob("*.env") if file.stat().st_mode & 0o777 == 0o600)
    assert private == ["api.env", "grafana.env", "redis.env", "worker.env"]
    assert json.loads((made / "keys" / "keys.json").read_text()) == {
        "alice": [hashlib.sha256(key.encode()).hexdigest()]
    }
    password = env_file(made / "redis.env")["REDIS_PASSWORD"]
    users = (made / "redis" / "users.acl").read_text()
    assert hashlib.sha256(password.encode()).hexdigest() in users
    assert password not in users
    assert "CHANGE-ME" not in users
    before = listed(made)
    again = subprocess.run([made.parent / "secrets.sh", "bob"], capture_output=True, text=True, check=False)
    assert (again.returncode, again.stdout) == (1, "")
    assert listed(made) == before


@pytest.mark.parametrize("names", [[], ["anonymous"], ["no spaces"], ["alice", 'a"b']])
def test_secrets_are_made_for_names_that_can_be(names: list[str], tmp_path: Path) -> None:
    """Nothing is made for a name that a node would refuse, or that would break the file."""
    for name in ("secrets.sh", "users.acl"):
        shutil.copy(ROOT / "deploy" / name, tmp_path)
    told = subprocess.run([tmp_path / "secrets.sh", *names], capture_output=True, text=True, check=False)
    assert told.returncode == 2
    assert not (tmp_path / "secrets").exists()
