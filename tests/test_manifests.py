"""docker-compose.yml and deploy/k8s: what their schemas say, and what they say of each other, of nginx.conf and of the
settings. No engine and no cluster is asked."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from api.main import create_app
from api.server import server_config
from shared.settings import Settings
from tests.support.dockerfile import DOCKERFILE, stages
from tests.support.manifests import (
    DEPLOY,
    KNOWN,
    KUBERNETES,
    compose,
    environment,
    examples,
    pod,
    pods,
    resources,
    seconds,
    size,
)
from tests.support.system import ROOT
from worker.main import END_S, HAND_OVER_S

SPARE_S = 5.0
"""For a busy machine, and for connections to be closed."""
SERVICES = compose()["services"]
OURS = ("api-1", "api-2", "worker-1", "worker-2")
NGINX = (DEPLOY / "nginx.conf").read_text()
IMAGE = stages(DOCKERFILE.read_text())[-1]


def told(*command: str | Path) -> str:
    """What a program says; it must be content."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def program(name: str) -> Path:
    return Path(sys.executable).with_name(name)


# -- schemas


@pytest.mark.parametrize("version", ["1.30.0", "1.37.0"])
def test_kubernetes_takes_the_manifests(version: str) -> None:
    """Strictly: what its schemas do not know is refused. The oldest release they are meant for, and a new one."""
    files = [file for file in sorted(KUBERNETES.glob("*.yaml")) if file.name != "kustomization.yaml"]
    said = told(program("kubernetes-validate"), "--strict", "-k", version, *files)
    assert said.count(" passed for resource ") == len(resources()) + len(examples())


def test_compose_takes_its_file() -> None:
    """By the schema of the Compose specification."""
    told(program("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", ROOT / "docker-compose.yml")


def test_the_files_that_are_named_are_there() -> None:
    """Everything that is mounted comes from the repository, or is made by deploy/secrets.sh."""
    mounted = [volume.split(":")[0] for each in SERVICES.values() for volume in each.get("volumes", [])]
    ours = {name for name in mounted if name.startswith("./") and not name.startswith("./deploy/secrets/")}
    assert [name for name in ours if not (ROOT / name).exists()] == []
    named = [file for each in SERVICES.values() for file in each.get("env_file", [])]
    named += [name.removeprefix("./") for name in mounted if name.startswith("./deploy/secrets/")]
    made = set(re.findall(r"\$made/([\w./]+)", (DEPLOY / "secrets.sh").read_text().replace('"', "")))
    assert {name.removeprefix("deploy/secrets/") for name in named} <= made
    assert "/deploy/secrets*/" in (ROOT / ".gitignore").read_text().splitlines()


# -- settings


@pytest.mark.parametrize("name", OURS)
def test_compose_says_only_settings_that_exist(name: str) -> None:
    """Each is known, and all of them together are taken."""
    given = SERVICES[name]["environment"]
    assert {one for one in given if one.startswith("HOLDFAST_")} <= KNOWN
    assert all(isinstance(value, str) for value in given.values()), "YAML would say `true` or 5 in its own way"


@pytest.mark.parametrize("name", ["api", "worker"])
def test_kubernetes_says_only_settings_that_exist(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node and a worker take what they are given, which is a known name each; and no link to a service, whose
    variables would look like settings."""
    said = environment(name) | IMAGE.environment()
    assert {one for one in said if one.startswith("HOLDFAST_")} <= KNOWN
    for one, value in said.items():
        if one.startswith("HOLDFAST_"):
            monkeypatch.setenv(one, value)
    Settings.load()
    assert pod(name)["enableServiceLinks"] is False


def test_every_setting_that_is_named_exists() -> None:
    """In comments, in the README and in scripts, too."""
    files = [DOCKERFILE, ROOT / "docker-compose.yml", *DEPLOY.glob("*.*"), *KUBERNETES.glob("*.yaml")]
    named = {name for file in files for name in re.findall(r"\bHOLDFAST_[A-Z_]+[A-Z]\b(?!…|_)", file.read_text())}
    assert named - KNOWN == set()


def test_providers_keys_are_the_workers_alone() -> None:
    """A node does not have them, here or there."""
    assert {file for name in OURS[:2] for file in SERVICES[name]["env_file"]} == {"deploy/secrets/api.env"}
    assert not [name for name in environment("api") if name.endswith("_API_KEY")]
    assert [name for name in environment("worker") if name.endswith("_API_KEY")]


# -- leaving


def node_needs_s(drain_s: float) -> float:
    settings = Settings(drain_s=drain_s)
    requests_s = server_config(create_app(settings), settings).timeout_graceful_shutdown
    assert requests_s is not None
    return drain_s + requests_s + SPARE_S


def worker_needs_s(grace_s: float) -> float:
    return grace_s + HAND_OVER_S + END_S + SPARE_S


@pytest.mark.parametrize("name", OURS)
def test_compose_gives_them_time_to_leave(name: str) -> None:
    """To send readers away and to hand generations over, before it kills; also where a default grows."""
    service, default = SERVICES[name], Settings()
    given = service["environment"]
    drain_s = float(given.get("HOLDFAST_DRAIN_S", default.drain_s))
    grace_s = float(given.get("HOLDFAST_WORKER_GRACE_S", default.worker_grace_s))
    need_s = node_needs_s(drain_s) if name.startswith("api") else worker_needs_s(grace_s)
    assert seconds(service["stop_grace_period"]) >= need_s


def test_kubernetes_gives_them_time_to_leave() -> None:
    """The same, and the time in which balancers learn that a node goes, which counts."""
    (node,) = pod("api")["containers"]
    pause_s = float(node["lifecycle"]["preStop"]["exec"]["command"][1])
    need_s = pause_s + node_needs_s(float(environment("api")["HOLDFAST_DRAIN_S"]))
    assert pod("api")["terminationGracePeriodSeconds"] >= need_s
    need_s = worker_needs_s(float(environment("worker")["HOLDFAST_WORKER_GRACE_S"]))
    assert pod("worker")["terminationGracePeriodSeconds"] >= need_s


@pytest.mark.parametrize("name", ["api", "worker"])
def test_a_deploy_takes_none_before_another_is_there(name: str) -> None:
    """And waits longer than nginx leaves a node alone that had refused."""
    spec = resources()["Deployment", name]["spec"]
    assert spec["strategy"]["rollingUpdate"] == {"maxSurge": 1, "maxUnavailable": 0}
    (alone_s,) = set(re.findall(r"fail_timeout=(\d+)s", NGINX))
    assert spec["minReadySeconds"] >= int(alone_s) + 1
    assert "replicas" not in spec, "they are the autoscaler's"
    (container,) = pod(name)["containers"]
    assert {"startupProbe", "livenessProbe", "readinessProbe"} <= set(container)
    assert "/readyz" not in str(container["livenessProbe"]), "Redis being away is no reason to start anew"


# -- ports, paths and places


def test_ports_and_addresses_agree() -> None:
    """nginx asks where nodes listen, finds them by the addresses they have, and is the one that is published."""
    asked = dict(re.findall(r"server (api-\d):(\d+) ", NGINX))
    assert set(asked) == {name for name in SERVICES if name.startswith("api-")}
    (port,) = {int(port) for port in asked.values()}
    assert port == Settings().port == int(IMAGE.last("EXPOSE"))
    hosts = dict(entry.split(":", 1) for entry in SERVICES["nginx"]["extra_hosts"])
    assert hosts == {name: SERVICES[name]["networks"]["inside"]["ipv4_address"] for name in asked}
    (listened,) = re.findall(r"listen (\d+) ", NGINX)
    published = {name: each["ports"] for name, each in SERVICES.items() if "ports" in each and "profiles" not in each}
    assert published == {"nginx": [f"${{LISTEN:-127.0.0.1:8080}}:{listened}"]}
    (node,) = pod("api")["containers"]
    assert [one["containerPort"] for one in node["ports"]] == [int(environment("api")["HOLDFAST_PORT"])] == [port]
    (worker,) = pod("worker")["containers"]
    assert [one["containerPort"] for one in worker["ports"]] == [int(environment("worker")["HOLDFAST_METRICS_PORT"])]


def test_probes_ask_what_is_there() -> None:
    """Paths that a node has; a command that the image has; the file that the worker writes."""
    (node,) = pod("api")["containers"]
    asked = {node[probe]["httpGet"]["path"] for probe in ("startupProbe", "livenessProbe", "readinessProbe")}
    assert asked <= set(create_app(Settings()).openapi()["paths"])
    assert {node[probe]["httpGet"]["port"] for probe in ("livenessProbe", "readinessProbe")} == {"http"}
    check = ["python", "-m", "shared.health"]
    assert IMAGE.healthcheck() == check
    assert {tuple(SERVICES[name]["healthcheck"]["test"][1:4]) for name in OURS} == {tuple(check)}
    (worker,) = pod("worker")["containers"]
    assert worker["livenessProbe"]["exec"]["command"] == [*check, "worker"]
    assert worker["readinessProbe"]["exec"]["command"] == [*check, "worker", "ready"]
    shown = Path(environment("worker")["HOLDFAST_HEALTH_FILE"]).parent
    assert str(shown) in {mount["mountPath"] for mount in worker["volumeMounts"]}


def test_redis_is_the_same_everywhere() -> None:
    """What Kubernetes runs has the directives of deploy/redis.conf, and all three hold twice what it may fill."""
    deployed = resources()["ConfigMap", "redis"]["data"]["redis.conf"]
    file = _directives((DEPLOY / "redis.conf").read_text())
    assert _directives(deployed) == {name: value for name, value in file.items() if name != "bind"}
    assert file["maxmemory"] == "2gb"
    limits = [SERVICES["redis"]["deploy"]["resources"]["limits"]["memory"]]
    limits += [container["resources"]["limits"]["memory"] for name, one in pods() for container in one["containers"]
               if name == "redis"]  # fmt: skip
    assert [size(limit) for limit in limits] == [4 << 30] * 2


def _directives(text: str) -> dict[str, str]:
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return dict(line.split(" ", 1) for line in lines)


def test_workers_have_the_memory_they_may_use() -> None:
    """What all generations of one may keep, and a quarter of a gigabyte for everything else."""
    need = Settings().worker_output_bytes + (256 << 20)
    (worker,) = pod("worker")["containers"]
    given = [size(SERVICES[name]["deploy"]["resources"]["limits"]["memory"]) for name in OURS[2:]]
    assert min(*given, size(worker["resources"]["limits"]["memory"])) >= need


# -- who may do what


@pytest.mark.parametrize("name", ["api", "worker", "redis"])
def test_pods_may_do_nothing_they_need_not(name: str) -> None:
    """No root, no rights, nothing to write on, nothing of the cluster."""
    spec = dict(pods())[name]
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert spec["automountServiceAccountToken"] is False
    for container in spec["containers"]:
        rights = container["securityContext"]
        assert rights["readOnlyRootFilesystem"] is True
        assert rights["allowPrivilegeEscalation"] is False
        assert rights["capabilities"] == {"drop": ["ALL"]}
    if name != "redis":
        assert IMAGE.last("USER").startswith(f"{spec['securityContext']['runAsUser']}:")


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_services_may_do_nothing_they_need_not(name: str) -> None:
    """The same under compose, for those of others, too; each with a limit, a check, and time to end."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "memory" in service["deploy"]["resources"]["limits"]
    assert {"healthcheck", "stop_grace_period", "restart"} <= set(service)
    assert ":" in service["image"].removeprefix("${IMAGE:-"), "any version, and each time another one"


def test_nobody_talks_to_whom_they_need_not() -> None:
    """All pods are shut, both ways; Redis is opened for ours alone, nodes for the proxy and Prometheus, the outside for
    workers, and there for HTTPS and no private network."""
    policies = {name: one["spec"] for (kind, name), one in resources().items() if kind == "NetworkPolicy"}
    assert policies["nothing-else"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    (to_redis,) = policies["to-redis"]["ingress"]
    assert [peer["podSelector"]["matchLabels"] for peer in to_redis["from"]] == [{"app.kubernetes.io/name": "holdfast"}]
    outside = [name for name, spec in policies.items() if "ipBlock" in str(spec)]
    assert outside == ["worker-to-providers"]
    assert policies[outside[0]]["podSelector"]["matchLabels"]["app.kubernetes.io/component"] == "worker"
    (egress,) = policies[outside[0]]["egress"]
    assert egress["ports"] == [{"protocol": "TCP", "port": 443}]
    assert "10.0.0.0/8" in egress["to"][0]["ipBlock"]["except"]
    networks = {name: set(SERVICES[name]["networks"]) for name in SERVICES}
    assert compose()["networks"]["inside"]["internal"] is True
    assert {name for name, found in networks.items() if "outside" in found} == {
        "worker-1", "worker-2", "nginx", "grafana",
    }  # fmt: skip


def test_the_ingress_is_made_for_streams() -> None:
    """It collects nothing and waits as long as nginx.conf does, which is longer than a node is ever quiet; and what is
    for the inside is not behind it."""
    ingress = resources()["Ingress", "holdfast"]
    said = ingress["metadata"]["annotations"]
    (quiet,) = re.findall(r"proxy_read_timeout (\d+)s;", NGINX)
    assert said["nginx.ingress.kubernetes.io/proxy-buffering"] == "off"
    assert said["nginx.org/proxy-buffering"] == "False"
    assert said["nginx.ingress.kubernetes.io/proxy-read-timeout"] == quiet
    assert said["nginx.org/proxy-read-timeout"] == f"{quiet}s"
    assert int(quiet) > 2 * Settings().keepalive_s
    (rule,) = ingress["spec"]["rules"]
    behind = {path["path"]: path["backend"]["service"]["name"] for path in rule["http"]["paths"]}
    shut = set(re.findall(r"location (?:= |~ \^)(/\w+)[^{]*{\s*return 404;", NGINX))
    assert shut == {"/metrics", "/admin"}
    assert behind == {"/": "api"} | dict.fromkeys(shut, "nobody")
    assert "selector" not in resources()["Service", "nobody"]["spec"]


def test_what_selects_finds() -> None:
    """Services, budgets, spreads and autoscalers mean pods and Deployments that are there."""
    labels = {name: resources()["Deployment", name]["spec"]["template"]["metadata"]["labels"]
              for name in ("api", "worker")}  # fmt: skip
    assert resources()["Service", "api"]["spec"]["selector"] == labels["api"]
    for name in labels:
        assert resources()["PodDisruptionBudget", name]["spec"]["selector"]["matchLabels"] == labels[name]
        assert resources()["Deployment", name]["spec"]["selector"]["matchLabels"] == labels[name]
        assert [spread["labelSelector"]["matchLabels"] for spread in pod(name)["topologySpreadConstraints"]] == [
            labels[name]
        ] * 2
        scaler = resources()["HorizontalPodAutoscaler", name]["spec"]
        assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": name}
        assert scaler["minReplicas"] >= 2, "one that goes must leave one"


def test_what_scales_is_brought_there() -> None:
    """Each metric that an autoscaler looks at is in the rules of the adapter."""
    wanted = set()
    for (kind, _), one in resources().items():
        if kind == "HorizontalPodAutoscaler":
            for metric in one["spec"]["metrics"]:
                body = metric.get("pods") or metric.get("external")
                wanted |= {body["metric"]["name"]} if body else set()
    rules = yaml.safe_load((DEPLOY / "prometheus" / "adapter.yml").read_text())["rules"]
    series = [rule["seriesQuery"] for part in ("custom", "external") for rule in rules[part]]
    assert wanted == {name for query in series for name in re.findall(r"holdfast_\w+", query)}


def test_what_scales_is_measured() -> None:
    """By nodes and workers, under the names that the adapter asks for."""
    queries = (DEPLOY / "prometheus" / "adapter.yml").read_text()
    wanted = set(re.findall(r"holdfast_(\w+)", queries))
    code = "".join((ROOT / part / "metrics.py").read_text() for part in ("api", "worker"))
    assert wanted <= set(re.findall(r'gauges?\(\s*"(\w+)"', code))


def test_prometheus_finds_everybody() -> None:
    """Under compose each node and worker where it says its metrics; in Kubernetes by labels and ports that pods have,
    under the same names, which alerts go by."""
    jobs = {job["job_name"]: job["static_configs"][0]["targets"] for job in _scraped("prometheus.yml")}
    worker = SERVICES["worker-1"]["environment"]["HOLDFAST_METRICS_PORT"]
    listened = {"api": str(Settings().port), "worker": worker}
    assert jobs == {f"holdfast-{kind}": [f"{kind}-{n}:{port}" for n in (1, 2)] for kind, port in listened.items()}
    (found,) = _scraped("kubernetes.yml")
    keeps = {rule["source_labels"][0]: rule["regex"] for rule in found["relabel_configs"] if "regex" in rule}
    ports = {pod(kind)["containers"][0]["ports"][0]["name"] for kind in listened}
    assert set(keeps["__meta_kubernetes_pod_container_port_name"].split("|")) == ports
    (job,) = [rule for rule in found["relabel_configs"] if rule.get("target_label") == "job"]
    assert {job["replacement"].replace("$1", kind) for kind in listened} == set(jobs)


def _scraped(file: str) -> list[dict[str, Any]]:
    configs: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "prometheus" / file).read_text())["scrape_configs"]
    return configs


def test_kustomization_lists_what_is_there() -> None:
    """Every file but the example, which nobody must apply."""
    listed = set(yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"])
    there = {file.name for file in KUBERNETES.glob("*.yaml")}
    assert there - listed == {"kustomization.yaml", "secret.example.yaml"}
    assert listed <= there
