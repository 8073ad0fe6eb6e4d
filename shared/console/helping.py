"""`--help` as people read it: a flag is shown as a flag, without the type of a value that it does not take."""

from typing import Any

from typer.core import TyperCommand, TyperGroup, TyperOption


def _told(params: list[Any]) -> list[Any]:
    for param in params:
        if isinstance(param, TyperOption) and param.is_flag and param.metavar is None:
            param.metavar = ""
    return params


class Command(TyperCommand):
    def get_params(self, *args: Any, **kwargs: Any) -> list[Any]:
        return _told(super().get_params(*args, **kwargs))


class Group(TyperGroup):
    def get_params(self, *args: Any, **kwargs: Any) -> list[Any]:
        return _told(super().get_params(*args, **kwargs))
