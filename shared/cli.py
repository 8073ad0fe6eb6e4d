"""The `holdfast` command."""

import runpy
import sys
from typing import Annotated

import typer

from shared.errors import ConfigurationError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Holdfast: a resumable stream broker for LLM output.",
)


@app.command()
def dev() -> None:
    """Everything on one machine: Redis (embedded unless HOLDFAST_REDIS_URL is set), API node, worker, page."""
    from shared.dev import run

    try:
        code = run()
    except ConfigurationError as error:
        typer.secho(error.message, fg="red", err=True)
        code = 2
    raise typer.Exit(code)


@app.command()
def api() -> None:
    """An API node, with settings from HOLDFAST_*."""
    _run_module("api")


@app.command()
def worker() -> None:
    """A worker, with settings from HOLDFAST_*."""
    _run_module("worker")


def _run_module(name: str) -> None:
    # By name: shared imports neither of the two.
    sys.argv = [name]
    runpy.run_module(name, run_name="__main__", alter_sys=True)


Version = Annotated[bool, typer.Option("--version", help="Show the version and exit.")]


@app.callback(invoke_without_command=True)
def root(version: Version = False) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("holdfast"))
        raise typer.Exit


def main() -> None:
    app()


if __name__ == "__main__":
    main()
