"""Replicas, Sentinels, Clusters: whether writes are taken, and survive the loss of a server."""

from collections.abc import Mapping
from typing import Any

from redis.asyncio import Redis

from shared.console.checks.findings import Finding, Subject, bad, infos, ok, warn
from shared.redis import UNREACHABLE, RedisError
from shared.topology.cluster import Cluster
from shared.topology.url import Kind, RedisUrl, parse

LAG_S = 5
SENTINEL_S = 1.0


async def check_replicas(subject: Subject) -> list[Finding]:
    said = await infos(subject, "server", "replication")
    return [
        _replicas(where, info, await _wanted(client))
        for (where, info), client in zip(said, subject.servers, strict=True)
    ]


async def _wanted(client: Any) -> int | None:
    """Replicas that must be there for it to take a write; None where the user may not ask."""
    try:
        said = await client.config_get("min-replicas-to-write")
    except RedisError:  # what it refuses to say is not known
        return None
    return int(said.get("min-replicas-to-write", 0))


def _replicas(where: str, info: Mapping[str, Any], wanted: int | None) -> Finding:
    if info.get("role") != "master":
        master = f"{info.get('master_host', '?')}:{info.get('master_port', '?')}"
        return bad(
            "replicas",
            f"{where}this is a replica of {master}, and takes no writes",
            "HOLDFAST_REDIS_URL must name its master, or the Sentinels",
        )
    states = [value for name, value in info.items() if name.startswith("slave") and isinstance(value, dict)]
    good = int(info.get("min_slaves_good_slaves", -1))
    if good < 0:
        good = sum(state.get("state") == "online" for state in states)
    if wanted and good < wanted:
        text = f"{where}min-replicas-to-write is {wanted}, and {good} are there: Redis refuses every write"
        remedy = "bring the replicas back; with a single server: CONFIG SET min-replicas-to-write 0"
        return bad("replicas", text, remedy)
    if not states:
        return ok("replicas", f"{where}none: this server is the only one that has the logs")
    if late := [state for state in states if state.get("state") != "online" or int(state.get("lag", 0)) > LAG_S]:
        text = f"{where}{len(late)} of {len(states)} replicas lag behind or are not there yet"
        return warn("replicas", text, "look at their logs and the network; repl-backlog-size may be too small")
    if not wanted and wanted is not None:
        text = f"{where}{len(states)}, but min-replicas-to-write is 0: a master that is cut off goes on taking writes"
        return warn("replicas", text, "CONFIG SET min-replicas-to-write 1, CONFIG SET min-replicas-max-lag 5")
    return ok("replicas", f"{where}{len(states)}, none of them behind")


async def check_topology(subject: Subject) -> list[Finding]:
    at = parse(subject.url)
    if isinstance(subject.redis, Cluster):
        return [_cluster(await client.execute_command("CLUSTER INFO")) for client in subject.servers[:1]]
    ((_, info),) = await infos(subject, "server")
    if info.get("redis_mode") == "cluster":
        return [
            bad(
                "topology",
                "this is one node of a Cluster, asked as if it were alone",
                "HOLDFAST_REDIS_URL=redis+cluster://…, and HOLDFAST_QUEUE_URL for the queue",
            )
        ]
    return await _sentinels(at) if at.kind is Kind.SENTINEL else [ok("topology", "a single server")]


def _cluster(info: Mapping[str, Any]) -> Finding:
    served, size = int(info.get("cluster_slots_ok", 0)), info.get("cluster_size", "?")
    if info.get("cluster_state") != "ok" or served < 16384:
        text = f"the Cluster is {info.get('cluster_state')}: {served} of 16384 slots are served"
        return bad("topology", text, "redis-cli --cluster check, and bring the missing masters back")
    return ok("topology", f"a Cluster of {size} masters, whole")


async def _sentinels(at: RedisUrl) -> list[Finding]:
    votes = [await _quorum(at, host, port) for host, port in at.addresses]
    silent = [word for word in votes if word]
    if silent:
        text = f"{len(silent)} of {len(votes)} Sentinels of {at.service} cannot fail it over: {silent[0]}"
        remedy = "bring them back; redis-cli SENTINEL CKQUORUM says what one is missing"
        return [(bad if 2 * len(silent) >= len(votes) else warn)("topology", text, remedy)]
    return [ok("topology", f"{len(votes)} Sentinels agree on {at.service}, and can fail it over")]


async def _quorum(at: RedisUrl, host: str, port: int) -> str:
    """What this Sentinel has against a failover; nothing where it could do one."""
    tls: dict[str, Any] = {"ssl": True, **at.tls} if at.sentinel_tls and at.tls is not None else {}
    access: dict[str, Any] = {"username": at.sentinel_username, "password": at.sentinel_password}
    times: dict[str, Any] = {"socket_timeout": SENTINEL_S, "socket_connect_timeout": SENTINEL_S}
    client: Any = Redis(host=host, port=port, **access, **times, **tls)
    try:
        await client.execute_command("SENTINEL CKQUORUM", at.service)
    except (*UNREACHABLE, RedisError) as error:
        return str(error)
    finally:
        await client.aclose(close_connection_pool=True)
    return ""
