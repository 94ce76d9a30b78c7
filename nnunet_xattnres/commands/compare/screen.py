"""The tables of a comparison on a screen of any width."""

from collections.abc import Iterator, Sequence
from textwrap import fill

from rich.box import SIMPLE
from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from nnunet_xattnres.commands.compare.published import TITLE, side_by_side
from nnunet_xattnres.commands.compare.report import cells, cost_lines, without_empty
from nnunet_xattnres.commands.compare.table import TEST, Comparison, Row, rows_of
from nnunet_xattnres.nnunet.find import cases_of_folds

_HEAD = (  # behind the values of the two models
    "difference",
    "95% interval\nover cases",
    "95% interval\nover repeats",
    "range of\nrepeats before",
    "range of\nrepeats",
    "p\n(Holm)",
    "better/\nequal/\nworse",
    "only the\nfirst",
    "only\nthis",
)
_COST_HEAD = ("model", "parameters", "seconds\nan epoch", "peak GPU\nmemory (MiB)")


def tables(comparison: Comparison, rows: Sequence[Row], width: int) -> list[RenderableType]:
    """One for each measure and further model, and one of the costs where any is known.

    Args:
        width: of the screen, in characters. What does not fit beside each other stands below each other: no number is
            ever cut.
    """
    found: list[RenderableType] = []
    for one in comparison.each():
        first, *others = one.models
        before = [cells(row) for row in rows_of(one, rows, first)]
        title = fill(one.measure.title, 12)
        for model in others:
            lines = []
            for row, old in zip(rows_of(one, rows, model), before, strict=True):
                _, label, value, _, between, _, difference, cases, repeats, p, holm, *counts = cells(row)
                lines.append((label, old[2], value, difference, cases, repeats, old[4], between, holm or p, *counts))
            above = f"{model.name}\nagainst {first.name}" + (f"\n{one.measure.title}" if comparison.further else "")
            found.append(_group(above, ("label", f"{title}\nbefore", title, *_HEAD), lines, width))
    if comparison.published:
        title = f"{TITLE}, beside the other measures: the mean over the labels"
        (of_model, _, *names), means = side_by_side(comparison, [row for row in rows if row.is_mean])
        lines = [(name, *values) for name, _, *values in means]
        found.append(_group(title, (of_model, *(fill(name, 12) for name in names)), lines, width))
    cost = cost_lines(comparison)
    return [*found, _group("Cost", _COST_HEAD, cost, width)] if cost else found


def compared(comparison: Comparison) -> str:
    """How many cases of which folds."""
    folds = dict.fromkeys(name for model in comparison.models for run in model.runs for name in run.folds)
    return cases_of_folds(len(comparison.cases), [name for name in folds if name != TEST])


def _group(title: str, head: Sequence[str], lines: Sequence[Sequence[str]], width: int) -> Group:
    head, lines = without_empty(head, lines)
    return Group(Text(title, style="bold"), *_stacked(head, list(zip(*lines, strict=True)), width))


def _stacked(head: Sequence[str], columns: Sequence[Sequence[str]], width: int) -> Iterator[Table]:
    """As many tables as it takes; each begins with the first column."""
    whole = _table(head, columns, range(1, len(head)))
    if _least_width(whole) <= width:
        yield whole
        return
    shown: list[int] = []
    for i in range(1, len(head)):
        if shown and _least_width(_table(head, columns, [*shown, i], width // 3)) > width:
            yield _table(head, columns, shown, width // 3)
            shown = []
        shown.append(i)
    yield _table(head, columns, shown, width // 3)


def _least_width(table: Table) -> int:
    return Console(width=1000, emoji=False).measure(table).minimum


def _table(
    head: Sequence[str], columns: Sequence[Sequence[str]], shown: Sequence[int], widest: int | None = None
) -> Table:
    """The first column and those of ``shown``. The first, of words, is broken where it is wider than ``widest``."""
    table = Table(box=SIMPLE)
    needed = [
        max(cell_len(line) for text in (title, *column) for line in text.split("\n"))
        for title, column in zip(head, columns, strict=True)
    ]
    first = needed[0] if widest is None else min(needed[0], widest)
    table.add_column(head[0], overflow="fold", min_width=first, max_width=first)
    for i in shown:
        table.add_column(head[i], justify="right", no_wrap=True, min_width=needed[i])
    for line in zip(*(columns[i] for i in (0, *shown)), strict=True):
        table.add_row(*map(escape, line))
    return table
