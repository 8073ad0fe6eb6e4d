"""API keys: how they are made, stored, found and replaced."""

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from api.auth import api_keys
from api.auth.api_keys import ApiKeys
from shared.cli import app
from shared.credentials import ANONYMOUS, NAME, check_principal, digest, new_key, principal_of
from shared.errors import ConfigurationError, Unauthorized

FIRST, SECOND = new_key(), new_key()


def stored(path: Path, **keys: list[str]) -> Path:
    """The file as an operator would replace it: a new one in the place of the old."""
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(keys))
    os.replace(fresh, path)
    return path


def broken(path: Path, text: str | None) -> None:
    """What the file is when its writer made a mistake; None: it is gone."""
    if text is None:
        path.unlink()
    else:
        path.write_text(text)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return stored(tmp_path / "keys.json", alice=[digest(FIRST)])


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(api_keys, "LOOK_S", 0.0)


async def test_key_is_its_principals() -> None:
    """Each key is found, several of one principal too; anything that differs by a character is nobody's."""
    keys = ApiKeys({"alice": (digest(FIRST), digest(SECOND))}, None)
    assert [await keys.principal(key) for key in (FIRST, SECOND)] == ["alice", "alice"]
    for wrong in ("", FIRST[:-1], FIRST + "=", FIRST.lower(), new_key(), digest(FIRST), "\ud800", "é" * 43):
        with pytest.raises(Unauthorized):
            await keys.principal(wrong)


async def test_file_and_settings_together(path: Path) -> None:
    """Keys may stand in both places, also those of the same principal."""
    keys = ApiKeys({"alice": (digest(SECOND),)}, path)
    assert [await keys.principal(key) for key in (FIRST, SECOND)] == ["alice", "alice"]


async def test_file_is_read_again(path: Path) -> None:
    """A key that was taken out of the file is refused, and one that was put in is known, without a restart."""
    keys = ApiKeys({}, path)
    assert await keys.principal(FIRST) == "alice"
    stored(path, bob=[digest(SECOND)])
    assert await keys.principal(SECOND) == "bob"
    with pytest.raises(Unauthorized):
        await keys.principal(FIRST)


async def test_broken_file_locks_nobody_out(path: Path) -> None:
    """A file that can no longer be read, or is gone, leaves the keys as they were; once mended it counts again."""
    keys = ApiKeys({}, path)
    for text in ("{", '{"alice": ["short"]}', '["alice"]', None):
        broken(path, text)
        assert await keys.principal(FIRST) == "alice"
    stored(path, bob=[digest(SECOND)])
    assert await keys.principal(SECOND) == "bob"


WRONG: list[dict[str, list[str]]] = [
    {}, {"alice": []}, {"alice": [FIRST]}, {"alice": [digest(FIRST).upper()]}, {ANONYMOUS: [digest(FIRST)]},
    {"": [digest(FIRST)]}, {"a b": [digest(FIRST)]}, {"a\n": [digest(FIRST)]}, {"*": [digest(FIRST)]},
    {"{x}": [digest(FIRST)]}, {"a" * 129: [digest(FIRST)]}, {"alice": [digest(FIRST)], "bob": [digest(FIRST)]},
]  # fmt: skip


@pytest.mark.parametrize("keys", WRONG, ids=lambda keys: "+".join(keys)[:20] or "none")
def test_what_is_refused_at_start(tmp_path: Path, keys: dict[str, list[str]]) -> None:
    """No key at all, a key that is not hashed, a principal that cannot be one, two with one key: said at start, and
    without the key."""
    with pytest.raises(ConfigurationError) as refused:
        ApiKeys({}, stored(tmp_path / "keys.json", **keys))
    assert FIRST not in refused.value.message


def test_missing_file(tmp_path: Path) -> None:
    """A file that is not there is said at start."""
    with pytest.raises(ConfigurationError, match="HOLDFAST_KEYS_FILE"):
        ApiKeys({}, tmp_path / "none.json")


async def test_command_makes_a_key() -> None:
    """What the command prints to store knows the key it prints; it prints another one each time."""
    printed = [CliRunner().invoke(app, ["keys", "new", "alice"]).stdout for _ in range(2)]
    key, line = printed[0].splitlines()
    known = json.loads(line[line.index("{") :])
    keys = ApiKeys({name: tuple(digests) for name, digests in known.items()}, None)
    assert await keys.principal(key.split()[-1]) == "alice"
    assert printed[0] != printed[1]


def test_command_refuses_a_name() -> None:
    """A name that the node would refuse makes no key."""
    result = CliRunner().invoke(app, ["keys", "new", "a b"])
    assert result.exit_code == 2
    assert "hf_" not in result.output


def test_keys_differ_and_are_long() -> None:
    """256 bits each, by their length, and marked as what they are."""
    made = {new_key() for _ in range(100)}
    assert len(made) == 100
    assert {len(key) for key in made} == {3 + 43}
    assert all(key.startswith("hf_") for key in made)


SUBJECTS = ["auth0|5f7c", "alice@example.com", "system:serviceaccount:ns:it", "7", "A" * 128]
STRANGE = [
    ANONYMOUS, "", " ", "a b", "{tag}", "*", "~" + "0" * 64, "a\0b", "a\nb", "ä", "\ud800", "\ud801", "A" * 129,
    "A" * 100_000,
]  # fmt: skip


@pytest.mark.parametrize("subject", SUBJECTS)
def test_subject_is_readable_in_redis(subject: str) -> None:
    """What is harmless in a Redis key stays as it is."""
    assert principal_of(subject) == subject == check_principal(subject)


def test_subjects_stay_apart() -> None:
    """Whatever an issuer calls its subjects, no two become one principal, none becomes the anonymous one, and none can
    break out of a Redis key."""
    principals = [principal_of(subject) for subject in SUBJECTS + STRANGE]
    assert len(set(principals)) == len(principals)
    assert ANONYMOUS not in principals
    assert all(NAME.fullmatch(p) or (p[0] == "~" and len(p) == 65) for p in principals)
