"""Several studies at a glance: the README's table and picture."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from benchmarks.study.curves import Groups
from benchmarks.study.description import Study
from benchmarks.study.folders import Folders
from benchmarks.study.records import read_records
from benchmarks.study.report import comparison_of, grouped
from benchmarks.study.results_page import RESULT, result_of
from nnunet_xattnres.commands.compare.report import markdown_table
from nnunet_xattnres.commands.compare.statistics import foreground_mean
from nnunet_xattnres.commands.compare.table import MEAN, Comparison, make_rows
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import replacing

Panel = tuple[str, Comparison]  # a title, and what is compared


def overview(studies: Sequence[tuple[Study, Folders]], picture: Path | None) -> str:
    """The Dice of every trainer after the longest schedule of each study, as a table in Markdown.

    Args:
        studies: each with the folders that hold its records.
        picture: where to draw all schedules of all studies; None for no picture.

    Raises:
        UserError: for a study without a schedule of which two trainers have all folds.
    """
    lines, panels = [], []
    for study, folders in studies:
        groups = grouped(study, read_records(study, folders))
        here = _panels(study, groups)
        if not here:
            raise UserError(f"{study.name} has nothing to compare yet; run it first")
        panels += here.values()
        longest = max(here, key=lambda name: _iterations(study, name))
        lines += _lines(study, longest, here[longest][1])
    if picture:
        _draw(panels, picture)
    return markdown_table(("data", "iterations", "trainer", *RESULT), lines)


def _panels(study: Study, groups: Groups) -> dict[str, Panel]:
    found = {}
    for schedule, by_trainer in groups.items():
        comparison = comparison_of(study, by_trainer)
        if comparison is not None:
            found[schedule] = f"{study.name}\n{_iterations(study, schedule):,} iterations", comparison
    return found


def _iterations(study: Study, schedule: str) -> int:
    return study.schedules[schedule].epochs * study.schedules[schedule].iterations


def _lines(study: Study, schedule: str, comparison: Comparison) -> list[list[str]]:
    start = [study.name, f"{_iterations(study, schedule):,}"]
    return [[*start, f"`{row.model}`", *result_of(row)] for row in make_rows(comparison) if row.label == MEAN]


def _draw(panels: Sequence[Panel], path: Path) -> None:
    """A panel for each schedule: a point for every repeat, the mean with its 95% interval (Student's t) beside them."""
    from matplotlib import colormaps
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(model.name for _, comparison in panels for model in comparison.models))
    figure = Figure(figsize=(3.0 + 2.4 * len(panels), 0.9 + 0.36 * len(names)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False, sharey=True)[0]
    for axis, (title, comparison) in zip(axes, panels, strict=True):
        for model in comparison.models:
            y, color = names.index(model.name), colormaps["tab10"](names.index(model.name) % 10)
            values = np.array([foreground_mean(comparison.dice(run)) for run in model.runs])
            axis.plot(values, np.full(len(values), y + 0.18), "o", color=color, markersize=4, alpha=0.6)
            half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values) if len(values) > 1 else 0.0
            axis.errorbar(values.mean(), y - 0.12, xerr=half, fmt="D", color=color, markersize=5, capsize=3)
        axis.set_title(title, fontsize=9)
        axis.set_xlabel("Dice", fontsize=9)
        axis.grid(axis="x", alpha=0.3)
        axis.set_xlim(max(0.0, axis.get_xlim()[0]), min(1.0, axis.get_xlim()[1]))  # an interval of few is wide
    axes[0].set_yticks(range(len(names)), [name.removeprefix("nnUNetTrainer") or "nnUNetTrainer" for name in names])
    axes[0].set_ylim(len(names) - 0.5, -0.5)
    with replacing(path) as partial:
        figure.savefig(partial, format="png", dpi=130)
