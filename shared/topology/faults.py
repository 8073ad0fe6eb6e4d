"""What Redis answers when it cannot: which errors pass by themselves, and which will be the same for ever."""

import re

from redis.exceptions import (
    AskError,
    ClusterDownError,
    DataError,
    ExecAbortError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    RedisError,
    ResponseError,
    TryAgainError,
)
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

UNREACHABLE = (RedisConnectionError, RedisTimeoutError, OSError)
"""What a command raises while Redis is away. The command may have been carried out nevertheless."""

PASSING = {
    "LOADING": "it was started and reads its data",
    "READONLY": "a failover made it a replica",
    "MASTERDOWN": "a replica that has lost its master",
    "OOM": "its memory is full: someone must make room",
    "MISCONF": "it cannot write to its disk",
    "NOREPLICAS": "too few replicas are there for it to take a write",
    "BUSY": "somebody's script has been running for long",
    "UNKILLABLE": "the same, and it has written",
    "CLUSTERDOWN": "a part of the Cluster has no master",
    "TRYAGAIN": "a slot is being moved",
    "MOVED": "a slot was moved",
    "ASK": "a slot is being moved",
    "NOSCRIPT": "it was restarted, or is another one",
    "NOPERM": "its users are being changed, or lack a right: someone must give it",
    "NOAUTH": "the same",
    "WRONGPASS": "the same",
}
"""First words of the answers that pass: the same command is taken later, unchanged."""

_OF_CLASS: dict[type[ResponseError], str] = {
    OutOfMemoryError: "OOM",
    ReadOnlyError: "READONLY",
    NoPermissionError: "NOPERM",
    NoScriptError: "NOSCRIPT",
}
"""redis-py drops the first word where it has a class for it."""
_NOT_ALLOWED = "The user executing the script can't"
"""NOPERM from within a script, in the words of Redis 6 and 7.0."""
_CODE = re.compile(rf"(?:^|: -)({'|'.join(PASSING)})\b")
"""Redis 6 wraps what a script was answered: `ERR Error running script (…): @user_script:5: -OOM command not…`."""


def code_of(error: BaseException) -> str:
    """The word by which Redis names a passing fault, or nothing."""
    for kind, code in _OF_CLASS.items():
        if isinstance(error, kind):
            return code
    if not isinstance(error, ResponseError):
        return ""
    found = _CODE.search(str(error))
    return found[1] if found else "NOPERM" if _NOT_ALLOWED in str(error) else ""


def transient(error: Exception) -> bool:
    """Whether the same command may succeed later, unchanged: the connection failed, the server's state, or somebody who
    runs it. False: Redis has refused what the command says, and will again."""
    if not isinstance(error, ResponseError):
        return isinstance(error, (RedisError, OSError)) and not isinstance(error, DataError)
    return isinstance(error, (ClusterDownError, TryAgainError, AskError, ExecAbortError)) or bool(code_of(error))
