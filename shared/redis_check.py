"""A look at the servers when a process starts: what in their settings would break a promise."""

import asyncio
from collections.abc import Mapping
from typing import Any

from shared.redis import RedisError
from shared.telemetry import get_logger
from shared.topology.cluster import Cluster

_log = get_logger(__name__)

AGAIN_S = 1.0
PARTS = ("server", "memory", "persistence")
"""Of what a server tells about itself. All that is asked: its settings are not everybody's to read."""


async def check_servers(redis: Any) -> None:
    """Warn of what may lose logs. Returns once the servers have answered, however long they are away; or when they
    refuse to say. Never raises for either."""
    while True:
        try:
            for server in await redis.masters() if isinstance(redis, Cluster) else [redis]:
                _judge({name: value for part in PARTS for name, value in (await server.info(part)).items()})
            return
        except RedisError as error:
            _log.debug("Redis could not be checked", error=str(error))
            await asyncio.sleep(AGAIN_S)


def _judge(info: Mapping[str, Any]) -> None:
    port, policy = info.get("tcp_port"), str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) and policy != "noeviction":
        _log.warning(
            "Redis may evict: set maxmemory-policy noeviction, or logs and sessions vanish when its memory is full",
            port=port,
            policy=policy,
        )
    if not int(info.get("aof_enabled", 0)):
        _log.info("Redis keeps no append-only file: a restart loses what was said since its last snapshot", port=port)
