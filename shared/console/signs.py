"""How bad something is, at a glance."""

from rich.text import Text

SIGNS = {"ok": ("✓", "green"), "warn": ("!", "bold yellow"), "bad": ("✗", "bold red")}


def sign(level: str) -> Text:
    mark, style = SIGNS[level]
    return Text(mark, style=style)
