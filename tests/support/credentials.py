"""Callers of nodes that ask who they are."""

import json
from typing import Any

from shared.credentials import digest, new_key

SECRET = "a secret of the tests that is long enough for any algorithm that could be tried with it"
ALICE, BOB = new_key(), new_key()


def settings_of_keys(**changes: Any) -> dict[str, Any]:
    """Settings of a node that knows Alice and Bob by their keys."""
    keys = {"alice": (digest(ALICE),), "bob": (digest(BOB),)}
    return {"auth": "keys", "keys": keys, "token_secret": SECRET, **changes}


def environment_of_keys() -> dict[str, str]:
    """The same for a process."""
    keys = {"alice": [digest(ALICE)], "bob": [digest(BOB)]}
    return {"HOLDFAST_AUTH": "keys", "HOLDFAST_KEYS": json.dumps(keys), "HOLDFAST_TOKEN_SECRET": SECRET}


def bearer(credential: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {credential}"}
