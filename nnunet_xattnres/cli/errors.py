"""What a command says when the user can mend what went wrong."""

from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.markup import escape

from nnunet_xattnres.cli.console import new_console
from nnunet_xattnres.common.errors import UserError


@contextmanager
def shown_to_the_user() -> Iterator[None]:
    """Print a ``UserError``, or what the file system refuses, without a traceback, and end with exit code 1."""
    try:
        yield
    except BrokenPipeError:  # whoever reads the output has seen enough; typer knows what to do
        raise
    except (UserError, OSError) as error:
        new_console(stderr=True, soft_wrap=True).print(f"[red]error:[/] {escape(str(error))}")
        raise typer.Exit(1) from None
