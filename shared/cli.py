"""The `holdfast` command."""

import json
import runpy
import sys
from typing import Annotated

import typer

from shared.console import commands
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


commands.register(app)
keys = typer.Typer(no_args_is_help=True, help="API keys for HOLDFAST_AUTH=keys, and the secret of stream tokens.")
app.add_typer(keys, name="keys")


@keys.command("new")
def new_api_key(principal: Annotated[str, typer.Argument(help="Whose it is, such as `alice`.")]) -> None:
    """Make an API key: the key itself, shown this once, and what to store of it."""
    from shared.credentials import check_principal, digest, new_key

    try:
        name = check_principal(principal)
    except ConfigurationError as error:
        typer.secho(error.message, fg="red", err=True)
        raise typer.Exit(2) from None
    key = new_key()
    typer.echo(f"key, shown this once:                       {key}")
    typer.echo(f"for HOLDFAST_KEYS or HOLDFAST_KEYS_FILE:     {json.dumps({name: [digest(key)]})}")


@keys.command("secret")
def new_token_secret() -> None:
    """Make a secret for HOLDFAST_TOKEN_SECRET: the same on every node."""
    from shared.credentials import new_secret

    typer.echo(new_secret())


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
