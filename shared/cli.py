"""The `holdfast` command."""

import json
import runpy
import sys
from typing import Annotated

import typer

from shared.console import commands, render
from shared.console.desk import fail
from shared.console.helping import Command, Group
from shared.console.options import Exit, Json
from shared.errors import ConfigurationError

app = typer.Typer(
    cls=Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Holdfast: a resumable stream broker for LLM output.",
)


@app.command(cls=Command)
def dev() -> None:
    """Everything on one machine: Redis (embedded unless HOLDFAST_REDIS_URL is set), API node, worker, page."""
    from shared.dev import run

    try:
        code = run()
    except ConfigurationError as error:
        code = fail(error.message, Exit.USAGE)
    raise typer.Exit(code)


@app.command(cls=Command)
def api() -> None:
    """An API node, with settings from HOLDFAST_*."""
    _run_module("api")


@app.command(cls=Command)
def worker() -> None:
    """A worker, with settings from HOLDFAST_*."""
    _run_module("worker")


commands.register(app)
keys = typer.Typer(
    cls=Group, no_args_is_help=True, help="API keys for HOLDFAST_AUTH=keys, and the secret of stream tokens."
)
app.add_typer(keys, name="keys")


@keys.command("new", cls=Command)
def new_api_key(
    principal: Annotated[str, typer.Argument(metavar="NAME", help="Whose it is, such as `alice`.")],
    as_json: Json = False,
) -> None:
    """Make an API key: the key itself, shown this once, and what to store of it."""
    from shared.credentials import check_principal, digest, new_key

    try:
        name = check_principal(principal)
    except ConfigurationError as error:
        raise typer.Exit(fail(error.message, Exit.USAGE)) from None
    key = new_key()
    stored = {name: [digest(key)]}
    if as_json:
        render.say_json({"principal": name, "key": key, "stored": stored})
        return
    typer.echo(f"key, shown this once:                     {key}")
    typer.echo(f"for HOLDFAST_KEYS or HOLDFAST_KEYS_FILE:  {json.dumps(stored)}")


@keys.command("secret", cls=Command)
def new_token_secret(as_json: Json = False) -> None:
    """Make a secret for HOLDFAST_TOKEN_SECRET: the same on every node."""
    from shared.credentials import new_secret

    if as_json:
        render.say_json({"secret": new_secret()})
    else:
        typer.echo(new_secret())


def _run_module(name: str) -> None:
    # By name: shared imports neither of the two.
    sys.argv = [name]
    try:
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, str):
            raise
        # It says what is wrong with its settings.
        raise typer.Exit(fail(end.code.removeprefix("holdfast: "), Exit.USAGE)) from None


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
