"""``nnunet-xattnres doctor``"""

import sys

import typer
from rich.console import Console
from rich.markup import escape

_MARK = {"ok": "[green]ok[/]     ", "warning": "[yellow]warning[/]", "error": "[red]error[/]  "}


def doctor() -> None:
    """Show what nnU-Net will find in this environment, and the command that mends what is wrong.

    Ends with exit code 1 if nnU-Net would not find one of our trainers.
    """
    from nnunet_xattnres.commands.doctor import diagnose

    console = Console(soft_wrap=True, highlight=False)
    findings = []
    for finding in diagnose():
        findings.append(finding)
        console.print(f"{_MARK[finding.level]}  [bold]{finding.topic}[/]  {escape(finding.message)}")
        if finding.remedy:
            console.print(f"         mend it with:  [cyan]{escape(finding.remedy)}[/]")
        sys.stdout.flush()

    n_errors = sum(finding.level == "error" for finding in findings)
    n_warnings = sum(finding.level == "warning" for finding in findings)
    if n_errors:
        console.print(f"\n[red]{n_errors} error(s)[/], {n_warnings} warning(s)")
        raise typer.Exit(1)
    console.print(f"\n[green]nnU-Net finds every trainer[/]; {n_warnings} warning(s)")
