"""Options and messages of a request, checked; each provider says them in its own words."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worker.providers.base import Code, ModelRequest, ProviderError

_ROLES = frozenset({"system", "user", "assistant", "tool"})


def invalid(message: str) -> ProviderError:
    return ProviderError(Code.INVALID_REQUEST, message)


def renamed(options: Mapping[str, Any], names: Mapping[str, str], provider: str) -> dict[str, Any]:
    """Options under a provider's own names. Raises ProviderError for one it has not: none is ignored."""
    for name in options:
        if name not in names:
            raise invalid(f"{provider} has no option {name[:64]!r}; it has: {', '.join(sorted(names))}")
    return {names[name]: value for name, value in options.items() if value is not None}


def checked_messages(request: ModelRequest) -> Iterator[dict[str, Any]]:
    """The messages, each with a known role and what that role needs. Raises ProviderError."""
    for message in request.messages:
        role = message.get("role")
        if role not in _ROLES:
            raise invalid(f"no role {str(role)[:64]!r}; a message is of: {', '.join(sorted(_ROLES))}")
        if "content" not in message and not message.get("tool_calls"):
            raise invalid(f"a message of role {role} without content")
        if role == "tool" and not message.get("tool_call_id"):
            raise invalid("a message of role tool without tool_call_id")
        yield message


def tool_choice(option: object, words: Mapping[str, Any], named: Callable[[str], dict[str, Any]]) -> Any:
    """`auto`, `none`, `required`, or the one tool that must be called: `{"name": …}`, in a provider's own `words`.

    What bears a `type` is in its own words already. Raises ProviderError.
    """
    match option:
        case str() if option in words:
            return words[option]
        case {"name": str(name), **rest} if not rest:
            return named(name)
        case {"type": _}:
            return option
    raise invalid('tool_choice must be "auto", "none", "required", or {"name": …} of a tool')


def as_text(content: object) -> str:
    """What a tool gave back, as text: models read nothing else."""
    return content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
