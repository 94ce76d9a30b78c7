"""``nnunet-xattnres doctor``"""

import sys
from typing import TYPE_CHECKING

import typer
from rich.console import Console
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console

if TYPE_CHECKING:
    from nnunet_xattnres.commands.doctor import Finding

_MARK = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "error": "[red]error[/]  "}


def doctor() -> None:
    """Show what nnU-Net will find in this environment, and the command that mends what is wrong.

    Asks a new Python, started as nnU-Net's commands start theirs. Ends with exit code 1 if nnU-Net would not find one
    of our trainers, or has a version beside it that this package does not work with.
    """
    from nnunet_xattnres.commands.doctor import diagnose

    console = new_console(soft_wrap=True)
    said: set[str] = set()
    levels = []
    with console.status("asking a new Python what nnU-Net finds; it imports torch first"):
        for finding in diagnose():
            levels.append(finding.level)
            _print(console, finding, said)
            sys.stdout.flush()

    n_errors, n_warnings = levels.count("error"), levels.count("warning")
    if n_errors:
        console.print(f"\n[red]{n_errors} error(s)[/], {n_warnings} warning(s)")
        raise typer.Exit(1)
    console.print(f"\n[green]nnU-Net finds every trainer[/] in {escape(sys.prefix)}; {n_warnings} warning(s)")


def _print(console: Console, finding: "Finding", said: set[str]) -> None:
    console.print(f"{_MARK[finding.level]}  [bold]{escape(finding.topic)}[/]  {escape(finding.message)}")
    if finding.remedy and finding.remedy not in said:  # one remedy may mend several things
        console.print(f"         mend it with:  [cyan]{escape(finding.remedy)}[/]")
        said.add(finding.remedy)
