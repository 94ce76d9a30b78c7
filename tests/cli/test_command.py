"""Options as nnU-Net's commands take them, and as others do."""

import pytest
import typer
from typer.testing import CliRunner

from nnunet_xattnres.cli.command import NnunetCommand


@pytest.fixture
def command():
    app = typer.Typer()
    seen = {}

    @app.command(cls=NnunetCommand)
    def run(
        where: str,
        several: list[str] = typer.Option([], "-tr", "--trainers"),  # noqa: B008
        one: str = typer.Option("", "-c"),
        flag: bool = typer.Option(False, "--flag"),
    ) -> None:
        seen.update(where=where, several=several, one=one, flag=flag)

    def invoke(*arguments):
        seen.clear()
        done = CliRunner().invoke(app, list(arguments))
        return seen if done.exit_code == 0 else done

    return invoke


@pytest.mark.parametrize(
    "arguments",
    [
        ("here", "-tr", "A", "B", "-c", "2d", "--flag"),
        ("here", "-tr", "A", "-tr", "B", "--flag", "-c", "2d"),
        ("here", "--flag", "-c", "2d", "--trainers", "A", "B"),
        ("-c", "2d", "here", "--trainers=A", "-tr", "B", "--flag"),
    ],
)
def test_both_ways(command, arguments):
    assert command(*arguments) == {"where": "here", "several": ["A", "B"], "one": "2d", "flag": True}


def test_without_a_value_it_is_an_error(command):
    for arguments in (("here", "-tr"), ("here", "-tr", "-c", "2d"), ("here", "-c", "2d", "3d")):
        assert command(*arguments).exit_code == 2


@pytest.fixture
def other():
    """With -d, and with -device or without."""

    def invoke(with_device, *arguments):
        app, seen = typer.Typer(), {}

        def shared(d, f, verbose, **more):
            seen.update(d=d, f=f, verbose=verbose, **more)

        data = typer.Option("", "-d", "--dataset")
        folds, verbose = typer.Option([], "-f", "--folds"), typer.Option(False, "-v")
        if with_device:

            @app.command(cls=NnunetCommand)
            def run(
                d: str = data,
                f: list[str] = folds,
                v: bool = verbose,
                device: str = typer.Option("", "-device", "--device"),
            ) -> None:
                shared(d, f, v, device=device)

        else:

            @app.command(cls=NnunetCommand)
            def run_without(d: str = data, f: list[str] = folds, v: bool = verbose) -> None:
                shared(d, f, v)

        done = CliRunner().invoke(app, list(arguments))
        return seen if done.exit_code == 0 else done

    return invoke


@pytest.mark.parametrize(
    "arguments",
    [
        ("-d", "4", "-device", "cpu"),
        ("-device", "cpu", "-d", "4"),
        ("-d4", "-device=cpu"),
        ("--dataset=4", "--device", "cpu"),
        ("-d=4", "-device", "cpu"),
    ],
)
def test_a_word_after_one_dash_is_an_option_of_its_own(other, arguments):
    assert other(True, *arguments) == {"d": "4", "f": [], "verbose": False, "device": "cpu"}


@pytest.mark.parametrize(
    ("arguments", "culprit"),
    [
        (("-device", "cpu", "-d", "4"), "-device"),
        (("-d", "4", "-device=cpu"), "-device"),
        (("-f", "0", "1", "-dataset", "4"), "-dataset"),
        (("-v", "-dtype"), "-dtype"),
    ],
)
def test_it_is_never_a_short_option_and_its_value(other, arguments, culprit):
    """-device must not be -d with the value "evice"."""
    done = other(False, *arguments)
    assert done.exit_code == 2 and f"No such option: {culprit}" in done.output


def test_what_is_a_value_may_look_like_a_word(other):
    assert other(False, "-d", "-odd", "-f", "0")["d"] == "-odd"
    assert other(False, "--dataset=-odd", "-v")["verbose"] is True
