"""What a command says when the user can mend what went wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.markup import escape

from nnunet_xattnres.common.errors import UserError


@contextmanager
def shown_to_the_user() -> Iterator[None]:
    """Print a ``UserError``, or what the file system refuses, without a traceback, and end with exit code 1."""
    try:
        yield
    except (UserError, OSError) as error:
        Console(stderr=True, soft_wrap=True, highlight=False).print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(1) from None
