"""Redis URLs: what they say, and what is said of those that are malformed."""

from typing import Any

import pytest

from shared.errors import ConfigurationError
from shared.jobs import open_queue
from shared.settings import Settings
from shared.topology.url import Kind, parse

SECRET = "s3cret"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis://h", {"kind": Kind.SINGLE, "addresses": (("h", 6379),), "db": 0, "tls": None}),
        ("redis://", {"addresses": (("localhost", 6379),)}),
        ("redis://h:1/2", {"addresses": (("h", 1),), "db": 2}),
        ("redis://h?db=3", {"db": 3}),
        ("redis://u:p%40%2F@h", {"username": "u", "password": "p@/"}),
        ("redis://:p@[::1]:7", {"username": None, "password": "p", "addresses": (("::1", 7),)}),
        ("rediss://h", {"tls": {"ssl_cert_reqs": "required", "ssl_check_hostname": True}}),
        ("redis://h?ssl=true", {"tls": {"ssl_cert_reqs": "required", "ssl_check_hostname": True}}),
        (
            "rediss://h?ssl_ca_certs=/ca&ssl_certfile=/c&ssl_keyfile=/k&ssl_cert_reqs=none",
            {
                "tls": {
                    "ssl_ca_certs": "/ca",
                    "ssl_certfile": "/c",
                    "ssl_keyfile": "/k",
                    "ssl_cert_reqs": "none",
                    "ssl_check_hostname": False,
                }
            },
        ),
        ("unix:///run/redis.sock", {"kind": Kind.SINGLE, "path": "/run/redis.sock", "addresses": ()}),
        ("unix://u:p@/run/redis.sock?db=1", {"path": "/run/redis.sock", "username": "u", "password": "p", "db": 1}),
        ("unix:///run/redis.sock?password=p", {"password": "p"}),
        (
            "redis+sentinel://u:p@a,b:1/main/2?sentinel_username=su&sentinel_password=sp",
            {
                "kind": Kind.SENTINEL,
                "addresses": (("a", 26379), ("b", 1)),
                "service": "main",
                "db": 2,
                "username": "u",
                "password": "p",
                "sentinel_username": "su",
                "sentinel_password": "sp",
                "sentinel_tls": False,
            },
        ),
        ("rediss+sentinel://a/main?sentinel_ssl=true", {"service": "main", "db": 0, "sentinel_tls": True}),
        ("redis+cluster://u:p@a:1,b", {"kind": Kind.CLUSTER, "addresses": (("a", 1), ("b", 6379)), "password": "p"}),
    ],
)
def test_what_a_url_says(url: str, says: dict[str, Any]) -> None:
    """Every part of every kind of URL is understood."""
    found = parse(url)
    assert {name: getattr(found, name) for name in says} == says


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("{s}", "unknown kind"),
        ("http://{s}@h", "unknown kind"),
        ("{s}:6379", "unknown kind"),
        ("redis://u:{s}/w@h", "database|port"),
        ("redis://u:pass#{s}@h", "percent-encode"),
        ("redis://:{s}@h:port", "port"),
        ("redis://:{s}@h:99999", "port"),
        ("redis://:{s}@h/x", "database"),
        ("redis://:{s}@h/1/2", "too many"),
        ("redis://:{s}@[::1", "malformed"),
        ("redis://:{s}@a,b", "several hosts"),
        ("redis://h?pasword={s}", "unknown parameter"),
        ("redis://h?{s}", "malformed"),
        ("redis://h?ssl={s}", "true or false"),
        ("redis://h?ssl_ca_certs={s}", "no TLS"),
        ("rediss://h?ssl=false&password={s}", "which"),
        ("rediss://h?ssl_cert_reqs={s}", "none, optional or required"),
        ("unix://{s}", "absolute path"),
        ("unix://{s}/path", "absolute path"),
        ("unix:///path?ssl=1&password={s}", "no TLS"),
        ("redis+sentinel://:{s}@a,b", "names its master"),
        ("redis+sentinel://:{s}@a,,b/main", "empty"),
        ("redis+sentinel://:{s}@/main", "empty"),
        ("redis+cluster://:{s}@a/1", "no databases"),
        ("redis+cluster://:{s}@a?db=1", "no databases"),
    ],
)
def test_a_malformed_url_is_refused_without_its_secrets(url: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says what is wrong, names the setting, and repeats no part of the URL."""
    with pytest.raises(ConfigurationError, match=why) as refused:
        parse(url.format(s=SECRET))
    assert SECRET not in refused.value.message
    monkeypatch.setenv("HOLDFAST_REDIS_URL", url.format(s=SECRET))
    with pytest.raises(ConfigurationError, match=r"^HOLDFAST_REDIS_URL: ") as refused:
        Settings.load()
    assert SECRET not in refused.value.message


@pytest.mark.parametrize(
    ("url", "queue"),
    [("redis+cluster://a", ""), ("redis+cluster://a", "redis+cluster://b"), ("redis://a", "redis+cluster://b")],
)
def test_the_queue_cannot_live_in_a_cluster(url: str, queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process refuses to start, and says which setting is missing or wrong."""
    monkeypatch.setenv("HOLDFAST_REDIS_URL", url)
    monkeypatch.setenv("HOLDFAST_QUEUE_URL", queue)
    with pytest.raises(ConfigurationError, match="HOLDFAST_QUEUE_URL"):
        Settings.load()
    with pytest.raises(ConfigurationError, match="queue"):
        open_queue("redis+cluster://a", 1.0)


def test_a_password_is_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    """Not even where the parsed URL is printed."""
    print(parse(f"redis+sentinel://u:{SECRET}@a/main?sentinel_password={SECRET}"))
    assert SECRET not in capsys.readouterr().out
