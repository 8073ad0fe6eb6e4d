"""Prints what pyproject.toml says Holdfast needs, one a line; with the extras that are named."""

import sys
import tomllib
from pathlib import Path

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [needed for extra in sys.argv[1:] for needed in project["optional-dependencies"][extra]]
print(*project["dependencies"], *extras, sep="\n")  # noqa: T201 - that is what it is for
