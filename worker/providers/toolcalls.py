"""Tool calls, put together from the fragments they come in."""

import json
from dataclasses import dataclass, field
from typing import Any

from shared.ids import new_token
from worker.providers.base import Code, ProviderError, ToolCall
from worker.providers.text import mended


@dataclass(slots=True)
class _Call:
    id: str
    name: str
    fragments: list[str] = field(default_factory=list)
    said: bool = False


class ToolCalls:
    """The calls of one answer, by the index their fragments bear. A call is given out once, and only whole.

    JSON of an object that can be read is whole. No arguments at all mean `{}`, unless the answer was cut.
    """

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_index: dict[int, _Call] = {}

    def __bool__(self) -> bool:
        return bool(self._calls)

    def has(self, index: int) -> bool:
        return index in self._by_index

    def starts(self, index: int, call_id: str | None) -> bool:
        """Whether a fragment opens a call. Some servers give parallel calls one index, but none one id."""
        call = self._by_index.get(index)
        return call is None or bool(call_id and call_id != call.id)

    def start(self, index: int, call_id: str | None, name: str | None) -> None:
        call = _Call(call_id or f"call_{new_token()}", name or "")
        self._calls.append(call)
        self._by_index[index] = call

    def add(self, index: int, fragment: str) -> None:
        self._by_index[index].fragments.append(fragment)

    def replace(self, index: int, arguments: str) -> None:
        """The provider says the whole arguments again, at the end of the call: these count."""
        self._by_index[index].fragments = [arguments]

    def end(self, index: int) -> list[ToolCall]:
        """The call's fragments are over. One that is not whole waits for `rest`, which knows about cuts."""
        call = self._by_index.get(index)
        arguments = _arguments(call) if call is not None and not call.said else None
        return [_said(call, arguments)] if call is not None and arguments is not None else []

    def end_all(self) -> list[ToolCall]:
        return [call for index in self._by_index for call in self.end(index)]

    def rest(self, cut: bool) -> list[ToolCall]:
        """What is left at the end of the answer. `cut`: the answer broke off, so a partial call is dropped.

        Raises ProviderError `malformed` for arguments that are no JSON object although the answer is whole.
        """
        calls = []
        for call in self._calls:
            if not call.said:
                arguments = _arguments(call) if any(call.fragments) or cut else {}
                if arguments is not None:
                    calls.append(_said(call, arguments))
                elif not cut:
                    raise ProviderError(Code.MALFORMED, f"the arguments of tool {call.name!r} are no JSON object")
        return calls


def arguments_json(call: dict[str, Any]) -> str:
    """The arguments of a call a model made earlier, as it is told them again."""
    return json.dumps(call.get("arguments") or {}, ensure_ascii=False)


def _arguments(call: _Call) -> dict[str, Any] | None:
    try:
        value = json.loads("".join(call.fragments))
    except ValueError:
        return None
    return _clean(value) if isinstance(value, dict) else None


def _clean(value: dict[str, Any]) -> dict[str, Any]:
    """Arguments as valid Unicode: halves of a character may come in two fragments, or alone in an escape."""
    clean: dict[str, Any] = json.loads(mended(json.dumps(value, ensure_ascii=False)))
    return clean


def _said(call: _Call, arguments: dict[str, Any]) -> ToolCall:
    call.said = True
    if not call.name:
        raise ProviderError(Code.MALFORMED, "a tool call without a name")
    return ToolCall(call.id, call.name, arguments)
