"""What commands print on."""

from typing import Any

from rich.console import Console


def new_console(**options: Any) -> Console:
    """Rich's, in which a name is only a name: ``e:smile:`` no face, and numbers in it have no colour of their own."""
    return Console(highlight=False, emoji=False, **options)
