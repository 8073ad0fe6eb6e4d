"""deploy/README.md: what it quotes is what the code says."""

import ast
import functools
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.manifests import DEPLOY, compose, pod
from tests.support.system import ROOT

PARTS = ("api", "worker", "shared")
README = (DEPLOY / "README.md").read_text(encoding="utf-8")


@functools.cache
def said() -> str:
    """All that the code and nginx may say: what stands in quotes and is no documentation."""
    trees = (ast.parse(file.read_text(encoding="utf-8")) for part in PARTS for file in (ROOT / part).rglob("*.py"))
    texts = [text for tree in trees for text in _texts(tree)]
    return "\n".join([*texts, (DEPLOY / "nginx.conf").read_text(encoding="utf-8")])


def _texts(tree: ast.Module) -> Iterator[str]:
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def rows() -> list[list[str]]:
    table = README.split("## Symptom, cause, remedy")[1]
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


@pytest.mark.parametrize("symptom", [row[0] for row in rows()])
def test_every_symptom_that_is_quoted_exists(symptom: str) -> None:
    """Whoever searches for what was logged finds it in the table, and the other way round."""
    everything = said()
    for quoted in re.findall(r"`([^`]+)`", symptom):
        assert quoted in everything, quoted


def test_there_is_a_row_for_everything_that_is_usual() -> None:
    """Twenty at least, each with a cause and a remedy, none twice."""
    assert all(len(row) == 3 and all(row) for row in rows())
    assert len({row[0] for row in rows()}) == len(rows()) >= 20


def test_every_file_that_is_linked_is_there() -> None:
    """A link of the README leads somewhere."""
    links = re.findall(r"\]\(([^)#]+)\)", README)
    assert [link for link in links if not link.startswith("http") and not (DEPLOY / link).exists()] == []


@pytest.mark.parametrize(("what", "service"), [("node", "api"), ("worker", "worker")])
def test_the_times_to_leave_are_as_deployed(what: str, service: str) -> None:
    """The table of deploys ends with what compose and Kubernetes give."""
    (row,) = re.findall(rf"^\| {what} \|.*$", README, re.MULTILINE)
    given = [int(number) for number in re.findall(r"→ (\d+) s", row)]
    compose_s = int(compose()["services"][f"{service}-1"]["stop_grace_period"].removesuffix("s"))
    assert given == [compose_s, pod(service)["terminationGracePeriodSeconds"]]


def test_every_file_that_a_command_names_is_there() -> None:
    """In the repository, or among what deploy/secrets.sh makes."""
    told = "\n".join(re.findall(r"^```sh\n(.*?)^```$", README, re.MULTILINE | re.DOTALL))
    named = set(re.findall(r"deploy/[\w./-]*[\w-]", told))
    made = set(re.findall(r"\$made/([\w./]+)", (DEPLOY / "secrets.sh").read_text(encoding="utf-8").replace('"', "")))
    assert len(named) > 5
    assert [
        path for path in named if not (ROOT / path).exists() and path.removeprefix("deploy/secrets/") not in made
    ] == []


def test_the_services_that_are_deployed_exist() -> None:
    """Each of the loop, and no other node or worker."""
    (told,) = re.findall(r"^for service in (.*); do$", README, re.MULTILINE)
    services = compose()["services"]
    assert told.split() == [name for name in services if re.fullmatch(r"(api|worker)-\d", name)]


def test_the_secret_for_kubernetes_is_the_password(tmp_path: Path) -> None:
    """The line that cuts it out gives what the nodes' address has."""
    for name in ("secrets.sh", "users.acl"):
        shutil.copy(DEPLOY / name, tmp_path / name)
    subprocess.run([tmp_path / "secrets.sh", "alice"], check=True, stdout=subprocess.DEVNULL)
    (cut,) = re.findall(r"\$\((cut [^)]*)\)", README)
    told = cut.replace("deploy/secrets", "secrets")
    password = subprocess.run(["sh", "-c", told], cwd=tmp_path, check=True, stdout=subprocess.PIPE, text=True).stdout
    assert f":{password.strip()}@" in (tmp_path / "secrets" / "api.env").read_text(encoding="utf-8")
