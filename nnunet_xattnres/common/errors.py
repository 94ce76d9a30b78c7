"""What goes wrong by what a user did, and not by a fault of ours."""

import os
from collections.abc import Iterator
from contextlib import contextmanager


class UserError(Exception):
    """Something that the user can mend; the message names the culprit and the way out. Commands print it and end."""


class ExistsError(UserError):
    """Something is where something new is to be written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(f"{path} exists: name another, or replace it with --force")


def words_of(error: BaseException) -> str:
    """What a user reads of an error."""
    if isinstance(error, KeyboardInterrupt):
        return "stopped"
    return str(error) if isinstance(error, UserError | OSError) else f"{type(error).__name__}: {error}"


@contextmanager
def naming(case: str) -> Iterator[None]:
    """Whatever goes wrong in the block is a ``UserError`` that begins with the case: a reader, say, may not name it."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{case}: {words_of(error)}") from error
