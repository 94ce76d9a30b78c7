"""How far a command is."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def shown_progress(console: Console) -> Iterator[Callable[[str, int], Callable[[], None]]]:
    """A function that begins a bar, from what is done and how often, and returns what says that one is done."""
    doing = TextColumn("{task.description}", style="progress.description", markup=False)  # a folder may be in it
    columns = (doing, *Progress.get_default_columns()[1:-1], MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as progress:

        def begin(doing: str, n: int) -> Callable[[], None]:
            task = progress.add_task(doing, total=n)
            return lambda: progress.advance(task)

        yield begin
