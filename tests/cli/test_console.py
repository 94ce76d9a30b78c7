"""What commands print: names of files, labels and machines as they are, whatever rich would make of them."""

import io
import re
from pathlib import Path

import pytest
import typer
from rich.console import Console

from nnunet_xattnres import cli
from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.cli.errors import shown_to_the_user
from nnunet_xattnres.cli.profile import _table
from nnunet_xattnres.cli.progress import shown_progress
from nnunet_xattnres.common.errors import UserError

NAME = "e:smile: [bold] [/red]"


def test_every_command_prints_on_it():
    for file in Path(cli.__file__).parent.glob("*.py"):
        assert file.name == "console.py" or not re.search(r"\bConsole\(", file.read_text(encoding="utf-8")), file


def test_an_error(capsys):
    with pytest.raises(typer.Exit), shown_to_the_user():
        raise UserError(NAME)
    assert capsys.readouterr().err == f"error: {NAME}\n"


def test_the_title_of_a_table():
    result = {"dataset": "Dataset001_e:smile:", "configuration": "2d", "batch": 2, "machine": "[/red] GPU", "rows": []}
    file = io.StringIO()
    new_console(file=file, width=120).print(_table(result))
    assert "Dataset001_e:smile:, 2d, batch 2, [/red] GPU" in file.getvalue()


def test_the_name_of_a_bar():
    file = io.StringIO()
    with shown_progress(Console(file=file, width=120)) as begin:
        begin(NAME, 2)()
    assert NAME in file.getvalue()
