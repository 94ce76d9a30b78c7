"""Several studies at a glance: the table and the picture of docs/results.md."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.study.bars import draw_bars, half_width
from benchmarks.study.curves import Groups
from benchmarks.study.description import Study
from benchmarks.study.folders import Folders
from benchmarks.study.records import read_records
from benchmarks.study.repeats import dice_of_repeats
from benchmarks.study.report import comparison_of, grouped, with_repeats
from benchmarks.study.results_page import RESULT, result_of
from nnunet_xattnres.commands.compare.report import markdown_table
from nnunet_xattnres.commands.compare.table import Comparison, make_rows
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.pages.figure import new_figure, save

Panel = tuple[str, Mapping[str, Sequence[float]]]  # a title, and the Dice of every repeat of each trainer


def overview(studies: Sequence[tuple[Study, Folders]], picture: Path | None, figure1: Path | None = None) -> str:
    """The Dice of every trainer after the longest schedule of each study, as a table in Markdown.

    Args:
        studies: each with the folders that hold its records.
        picture: where to draw all schedules of all studies; None for no picture.
        figure1: where to draw the longest schedule of each study as the paper's Figure 1 does; None for no picture.

    Raises:
        UserError: for a study without a schedule of which two trainers have all folds.
    """
    lines: list[list[str]] = []
    panels: list[Panel] = []
    longest_panels: list[Panel] = []
    for study, folders in studies:
        groups = grouped(study, read_records(study, folders))
        compared = {schedule: found for schedule in groups if (found := comparison_of(study, groups[schedule]))}
        if not compared:
            raise UserError(f"{study.name} has nothing to compare yet; run it first")
        panels += [_panel(study, groups, schedule, found) for schedule, found in compared.items()]
        longest = max(compared, key=study.iterations)
        rows = with_repeats(study, groups[longest], make_rows(compared[longest]))
        longest_panels.append(_panel(study, groups, longest, compared[longest]))
        start = [study.name, f"{study.iterations(longest):,}"]
        lines += [[*start, f"`{row.model}`", *result_of(row)] for row in rows if row.is_mean]
    if picture:
        _draw(panels, picture)
    if figure1:
        draw_bars(longest_panels, figure1)
    return markdown_table(("data", "iterations", "trainer", *RESULT), lines)


def _panel(study: Study, groups: Groups, schedule: str, comparison: Comparison) -> Panel:
    values = {model.name: dice_of_repeats(study, groups[schedule][model.name]) for model in comparison.models}
    return f"{study.name}\n{study.iterations(schedule):,} iterations", values


def _draw(panels: Sequence[Panel], path: Path) -> None:
    """A panel for each schedule: a point for every repeat, the mean with its 95% interval (Student's t) beside them."""
    from matplotlib import colormaps
    from matplotlib.ticker import MaxNLocator

    names = list(dict.fromkeys(name for _, by_trainer in panels for name in by_trainer))
    with new_figure(3.0 + 2.4 * len(panels), 0.9 + 0.36 * len(names)) as figure:
        axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for axis, (title, by_trainer) in zip(axes, panels, strict=True):
            for name, found in by_trainer.items():
                y, color, values = names.index(name), colormaps["tab10"](names.index(name) % 10), np.array(found)
                axis.plot(values, np.full(len(values), y + 0.18), "o", color=color, markersize=4, alpha=0.6)
                axis.errorbar(
                    values.mean(), y - 0.12, xerr=half_width(values), fmt="D", color=color, markersize=5, capsize=3
                )
            axis.set_title(title, fontsize=9)
            axis.set_xlabel("Dice", fontsize=9)
            axis.xaxis.set_major_locator(MaxNLocator(5))
            axis.grid(axis="x", alpha=0.3)
            axis.set_xlim(max(0.0, axis.get_xlim()[0]), min(1.0, axis.get_xlim()[1]))  # an interval of few is wide
        axes[0].set_yticks(range(len(names)), [name.removeprefix("nnUNetTrainer") or "nnUNetTrainer" for name in names])
        axes[0].set_ylim(len(names) - 0.5, -0.5)
        save(figure, path)
