"""The commands of this package, as they stand in `holdfast --help`."""

import typer

from shared.console.bench import bench
from shared.console.doctor import doctor
from shared.console.helping import Command
from shared.console.options import STATUSES
from shared.console.sessions import sessions
from shared.console.show import show
from shared.console.stop import stop
from shared.console.tail import tail

PANEL = "On call"


def register(app: typer.Typer) -> None:
    for command in (sessions, show, tail, stop, doctor, bench):
        app.command(cls=Command, rich_help_panel=PANEL, epilog=STATUSES)(command)
