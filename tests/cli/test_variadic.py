"""Options with several values, in the way of nnU-Net's commands and in that of others."""

import pytest
import typer
from typer.testing import CliRunner

from nnunet_xattnres.cli.variadic import VariadicCommand


@pytest.fixture
def command():
    app = typer.Typer()
    seen = {}

    @app.command(cls=VariadicCommand)
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
