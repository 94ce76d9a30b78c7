"""``python -m benchmarks.study``"""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from benchmarks.study.description import Study, read_study
from benchmarks.study.folders import RESULTS, Folders
from nnunet_xattnres.cli.errors import shown_to_the_user

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, help=__doc__)
File = Annotated[Path, typer.Argument(help="The YAML file of the study.")]
Results = Annotated[Path, typer.Option(help="Where records and reports are; a folder for each study.")]


@app.command()
def run(
    file: File,
    raw: Annotated[
        Path, typer.Option(help="nnU-Net's raw data, the folder that holds the data set.", envvar="nnUNet_raw")
    ],
    work: Annotated[Path, typer.Option(help="For preprocessed data, checkpoints and logs.")],
    results: Results = RESULTS,
    jobs: Annotated[int, typer.Option(min=1, help="Trainings at the same time.")] = 1,
    threads: Annotated[int, typer.Option(min=1, help="Of each training, on the CPU.")] = 1,
) -> None:
    """Run what is missing of a study, and write its report. It may be stopped at any time: the same command goes on."""
    from benchmarks.study.running import run_study

    with shown_to_the_user():
        study, folders = _open(file, results, raw, work)
        console = Console(highlight=False)
        try:
            failures = run_study(study, folders, jobs=jobs, threads=threads, console=console)
        except KeyboardInterrupt:
            _report(study, folders, console)
            console.print("stopped; the same command goes on from here")
            raise typer.Exit(130) from None
        _report(study, folders, console)
        for failure in failures:
            console.print(f"[red]{escape(failure)}[/]", soft_wrap=True)
        if failures:
            raise typer.Exit(1)


@app.command()
def report(file: File, results: Results = RESULTS) -> None:
    """Write tables, pictures and RESULTS.md again from the records."""
    with shown_to_the_user():
        _report(*_open(file, results), Console(highlight=False))


@app.command()
def merge(
    file: File,
    other: Annotated[Path, typer.Argument(help="The study's folder of results from another machine.")],
    results: Results = RESULTS,
) -> None:
    """Take over the records that another machine has made, and write the report."""
    from benchmarks.study.records import merge_records

    with shown_to_the_user():
        study, folders = _open(file, results)
        new = merge_records(study, folders, other)
        console = Console(highlight=False)
        console.print(f"{len(new)} new: {', '.join(new) or 'nothing'}", soft_wrap=True)
        _report(study, folders, console)


@app.command()
def overview(
    files: Annotated[list[Path], typer.Argument(help="The YAML files of some studies.")],
    picture: Annotated[Path | None, typer.Option(help="Where to draw the picture.")] = None,
    figure1: Annotated[
        Path | None, typer.Option(help="Where to draw bars as in the paper's Figure 1: a .png or a .pdf.")
    ] = None,
    results: Results = RESULTS,
) -> None:
    """Print one table of several studies, and draw one picture: those of docs/results.md."""
    from benchmarks.study.overview import overview as table_of

    with shown_to_the_user():
        typer.echo(table_of([_open(file, results) for file in files], picture, figure1))


def _open(file: Path, results: Path, raw: Path = Path(), work: Path = Path()) -> tuple[Study, Folders]:
    study = read_study(file)
    return study, Folders(raw.absolute(), work.absolute() / study.name, results.absolute() / study.name)


def _report(study: Study, folders: Folders, console: Console) -> None:
    from benchmarks.study.report import write_report

    written = write_report(study, folders)
    console.print(f"wrote {written}" if written else "no record yet, and so no report", soft_wrap=True)


if __name__ == "__main__":
    app()
