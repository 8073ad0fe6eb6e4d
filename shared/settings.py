"""Settings: `HOLDFAST_*` environment variables, read once. Units are in the names."""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from shared.errors import ConfigurationError
from shared.log import Retention
from shared.models import PREFIX, ModelConfig
from shared.redis import check_url, is_cluster


class Settings(BaseSettings):
    model_config = SettingsConfigDict(env_prefix="HOLDFAST_", extra="ignore", frozen=True)

    redis_url: str = ""
    """`redis://`, `rediss://`, `unix://`, `redis+sentinel://host,host/name` or `redis+cluster://host,host`: see
    shared/topology/url.py. Empty: `holdfast dev` starts an embedded one; others use localhost:6379."""
    queue_url: str = ""
    """Redis of the job queue, no Cluster. Empty: the same as redis_url, where that is none."""
    redis_connections: int = Field(4, ge=2, le=100)
    """Most connections of one process for commands. Subscriptions and the queue take a few more."""
    redis_timeout_s: float = Field(5.0, gt=0)

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    drain_s: float = Field(5.0, ge=0)
    """On SIGTERM, open streams are closed spread over this time."""
    keepalive_s: float = Field(12.0, gt=0, le=15)
    send_timeout_s: float = Field(60.0, ge=1, le=3600)
    """A client that takes nothing for this long is dropped; if it lives, it comes back with its cursor."""
    quiet_check_s: float = Field(1.0, gt=0)
    """A feed that has been quiet this long looks at the log, so that a lost last event is found."""
    heal_wait_s: float = Field(10.0, gt=0)
    """How long a reader that is ahead of the log waits for a live writer to say the tail again."""
    retry_ms: int = Field(1000, ge=0)
    """What an EventSource is told to wait before it reconnects."""
    replay_page: int = Field(1000, ge=1, le=10_000)
    """Events per read of the log on replay."""
    replay_bytes: int = Field(1 << 16, ge=1)
    """About the most that one write to a client holds on replay; pages shrink where events are large."""
    ring_events: int = Field(1024, ge=1)
    """Recent events a feed keeps in memory. A reader that falls behind them is back on replay."""
    ring_bytes: int = Field(1 << 20, ge=1)
    max_body_bytes: int = Field(1 << 20, ge=1)
    """Largest request body. 413 beyond."""
    max_input_chars: int = Field(200_000, ge=1)

    retention_s: float = Field(86_400, gt=0)
    """How long a log outlives its newest generation."""
    tombstone_s: float = Field(7 * 86_400, gt=0)
    """How much longer the session hash lives, to answer *expired* instead of *unknown*."""

    worker_jobs: int = Field(300, ge=1)
    """Generations one worker holds at once."""
    worker_grace_s: float = Field(20.0, ge=0)
    """On SIGTERM, generations may finish within this time; the rest are handed over."""
    heartbeat_s: float = Field(2.0, gt=0)
    lease_s: float = Field(6.0, gt=0)
    """A worker that did not refresh its lease for this long is gone."""
    health_file: Path | None = None
    """A worker touches it with each heartbeat, Redis or not: `python -m shared.health` looks at its age."""
    max_attempts: int = Field(2, ge=1)
    requeue_after_s: float = Field(4.0, gt=0)
    queue_timeout_s: float = Field(3600.0, gt=0)
    """A generation that no worker took within this time fails."""
    generation_timeout_s: float = Field(3600.0, gt=0)
    idle_timeout_s: float = Field(120.0, gt=0)
    """A provider that says nothing for this long has failed."""
    question_timeout_s: float = Field(3600.0, gt=0)
    """How long a pipeline's question stays open where the pipeline does not say."""
    tool_timeout_s: float = Field(60.0, gt=0)
    tool_rounds: int = Field(10, ge=1)
    """How often a model may call tools before it must answer."""
    flush_ms: float = Field(40.0, ge=0)
    """How long a delta waits for others to share its event; then the next tick of 20 ms, which is the same for all
    generations of a worker, takes it along. The first one never waits. Less than 20 means no tick."""
    flush_bytes: int = Field(2048, ge=1)
    """The most text one delta event holds before it is flushed."""
    backlog_bytes: int = Field(1 << 20, ge=1)
    """Events the writer keeps while Redis is away, before it slows the provider down."""
    max_event_bytes: int = Field(1 << 20, ge=1)
    """Largest single event a pipeline may say, such as a tool's output. A generation that says more fails."""
    max_output_bytes: int = Field(16 << 20, ge=1)
    """A generation that says more than this fails: the writer keeps all it said until the end."""
    worker_output_bytes: int = Field(1 << 30, ge=1)
    """What all generations of a worker may keep together. Beyond, the one that keeps most fails."""
    linger_s: float = Field(3.0, ge=0)
    """The last append is repeated twice, this far apart: a failover cannot lose the end."""
    compact: bool = True
    """After that, neighbouring deltas are stored joined: a log takes less memory. What readers get stays the same."""

    auth: Literal["none", "keys", "jwt"] = "none"
    """Who callers are: everybody the same one; those who have an API key; those whom a JWT names."""
    allow_anonymous: bool = False
    """With `none`, a node serves on loopback alone, unless this says that whoever reaches it may use it."""
    keys: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """JSON: principal → SHA-256 digests of its API keys, in hex. `holdfast keys new NAME` makes one."""
    keys_file: Path | None = None
    """The same in a file, which is read again when it changes: keys come and go without a restart."""
    jwt_key: SecretStr = SecretStr("")
    """A public key in PEM, or a shared secret of at least 32 characters."""
    jwt_jwks_url: str = ""
    """Where the issuer publishes its keys; https. Needs jwt_issuer and jwt_audience."""
    jwt_algorithms: Annotated[tuple[str, ...], NoDecode] = ()
    """Separated by commas. Empty: all that fit the key. Never both kinds, of shared secrets and of public keys."""
    jwt_issuer: str = ""
    jwt_audience: str = ""
    """Must be among the token's audiences. Empty: not checked, with a key of one's own alone."""
    jwt_leeway_s: float = Field(10.0, ge=0, le=300)
    """By how much the issuer's clock may differ."""
    jwt_principal_claim: str = Field("sub", min_length=1)
    """The claim that says who calls: a string, the same as long as the caller is the same."""
    token_secret: SecretStr = SecretStr("")
    """Signs stream tokens; at least 32 characters, the same on every node. Several, separated by commas: the first
    signs, all of them verify."""
    token_s: int = Field(300, ge=1, le=86_400)
    """How long a stream token lives. It is looked at when a stream begins; an open one stays open."""
    admin: Annotated[tuple[str, ...], NoDecode] = ()
    """Principals who may use the admin page at `/admin`, and see and stop the sessions of all; separated by commas.
    Empty: there is none. With `none` as auth it can only be `anonymous`, and only on loopback."""
    stream_max_s: float = Field(0.0, ge=0)
    """Streams that are older than this are cut, and must come back with valid credentials. 0: never."""
    cors_origins: Annotated[tuple[str, ...], NoDecode] = ()
    """Origins whose pages may use this node, separated by commas: `https://app.example.com`. Its own always may."""
    hosts: Annotated[tuple[str, ...], NoDecode] = ()
    """With `none` on loopback: further names by which browsers and proxies may call this node, separated by commas."""
    turns_per_minute: int | None = Field(None, ge=0)
    """Sessions and messages one principal may start. 0: any number. Not given: 600, or any number with `none`."""
    live_sessions: int | None = Field(None, ge=0)
    """Sessions of one principal with a live generation. 0: any number. Not given: 200, or any number with `none`."""
    open_streams: int | None = Field(None, ge=0)
    """Streams of one principal on one node. 0: any number. Not given: 500, or any number with `none`."""
    log_level: str = "info"
    log_format: Annotated[str, Field(pattern="^(console|json)$")] = "console"
    log_content: bool = False
    """What users and models say is logged too, at level `debug`. Otherwise it is in no line."""
    metrics: bool = True
    """A node answers `/metrics`."""
    metrics_port: int = Field(0, ge=0, le=65535)
    """Where a worker answers `/metrics`. 0: nowhere."""
    metrics_host: str = "127.0.0.1"
    """The address of that: whoever reaches it may read the metrics."""
    traces: bool = False
    """Send OpenTelemetry traces, as `OTEL_EXPORTER_OTLP_*` say. Needs the extra `otel`."""
    models: dict[str, ModelConfig] = Field(default_factory=dict)
    """JSON: model prefix → `{"sdk", "base_url", "key_env"}`, for any server that speaks one of the known protocols."""
    pipelines: Annotated[tuple[str, ...], NoDecode] = ()
    """Dotted modules to import, separated by commas: each registers pipelines."""

    @classmethod
    def load(cls) -> Self:
        """From the environment.

        Raises ConfigurationError for a wrong value, and for a name that is not known: a setting that is mistyped, or
        of another version, must not be ignored.
        """
        known = {f"HOLDFAST_{name.upper()}" for name in cls.model_fields}
        given = {name for name in os.environ if name.upper().startswith("HOLDFAST_")}
        if unknown := sorted(name for name in given if name.upper() not in known and not _of_tests(name)):
            raise ConfigurationError(f"unknown setting {unknown[0]}; all of them are in shared/settings.py")
        try:
            return cls()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = "".join(f"_{part}" for part in first["loc"]).upper()
            message = first["msg"].removeprefix("Value error, ")
            raise ConfigurationError(f"HOLDFAST{name}: {message}" if name else message) from None

    @field_validator("redis_url", "queue_url")
    @classmethod
    def _redis(cls, url: str) -> str:
        try:
            return check_url(url) if url else url
        except ConfigurationError as error:
            raise ValueError(error.message) from None

    @model_validator(mode="after")
    def _queue_outside_a_cluster(self) -> Self:
        if is_cluster(self.queue_redis_url):
            raise ValueError(
                "HOLDFAST_QUEUE_URL must not name a Cluster: the job queue cannot live in one"
                if self.queue_url
                else "HOLDFAST_REDIS_URL names a Cluster: HOLDFAST_QUEUE_URL must name another Redis, for the job queue"
            )
        return self

    @field_validator("pipelines", "jwt_algorithms", "cors_origins", "hosts", "admin", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if isinstance(value, str):
            return tuple(part.strip() for part in value.split(",") if part.strip())
        return value

    @field_validator("models")
    @classmethod
    def _prefixes(cls, models: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        for prefix in models:
            if not PREFIX.fullmatch(prefix):
                raise ValueError(f"{prefix!r} cannot be the prefix of a model: letters, digits, `.`, `_`, `-` only")
        return models

    @property
    def retention(self) -> Retention:
        return Retention(int(self.retention_s * 1000), int(self.tombstone_s * 1000))

    @property
    def log_redis_url(self) -> str:
        return self.redis_url or "redis://127.0.0.1:6379/0"

    @property
    def queue_redis_url(self) -> str:
        return self.queue_url or self.log_redis_url


def _of_tests(name: str) -> bool:
    return name.startswith("HOLDFAST_TEST_")
