"""What is deployed, as data."""

from collections.abc import Iterator
from typing import Any

import yaml

from shared.settings import Settings
from tests.support.system import ROOT

DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "k8s"
KNOWN = {f"HOLDFAST_{name.upper()}" for name in Settings.model_fields}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return found


def resources() -> dict[tuple[str, str], dict[str, Any]]:
    """Everything that kustomization.yaml lists, by kind and name."""
    listed = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
    every = [one for name in listed for one in yaml.safe_load_all((KUBERNETES / name).read_text())]
    found = {(one["kind"], one["metadata"]["name"]): one for one in every}
    assert len(found) == len(every), "two of one name"
    return found


def examples() -> dict[str, dict[str, str]]:
    """The secrets as secret.example.yaml shows them, by name."""
    every = yaml.safe_load_all((KUBERNETES / "secret.example.yaml").read_text())
    return {one["metadata"]["name"]: one["stringData"] for one in every}


def pod(name: str) -> dict[str, Any]:
    """The pods of a Deployment."""
    spec: dict[str, Any] = resources()["Deployment", name]["spec"]["template"]["spec"]
    return spec


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    for (kind, name), one in resources().items():
        if kind in ("Deployment", "StatefulSet"):
            yield name, one["spec"]["template"]["spec"]


def environment(name: str) -> dict[str, str]:
    """Of the container of a Deployment, with secrets as in the example."""
    (container,) = pod(name)["containers"]
    found: dict[str, str] = {}
    for source in container["envFrom"]:
        if "configMapRef" in source:
            found |= resources()["ConfigMap", source["configMapRef"]["name"]]["data"]
        else:
            found |= examples()[source["secretRef"]["name"]]
    return found | {one["name"]: one["value"] for one in container.get("env", [])}


def seconds(text: str) -> float:
    return float(text.removesuffix("s"))


def size(text: str) -> int:
    """Bytes; of compose (512M, 1G) as of Kubernetes (512Mi, 1Gi)."""
    number, unit = text.rstrip("MGi"), text.lstrip("0123456789").removesuffix("i")
    return int(number) << {"M": 20, "G": 30}[unit]
