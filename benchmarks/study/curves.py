"""Learning curves: how fast trainings get where the plain network ends."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, median

import numpy as np

from benchmarks.study.records import Record
from nnunet_xattnres.pages.figure import new_figure, save

FRACTIONS = (0.9, 0.95, 0.99)
WINDOW = 3  # epochs over whose mean a curve is judged: nnU-Net estimates each epoch's Dice on few patches
Groups = Mapping[str, Mapping[str, Sequence[Record]]]  # schedule -> trainer -> its trainings


def final_dice(records: Sequence[Record]) -> float:
    """The mean over the trainings of the end of their curves."""
    return mean(_smooth(record)[-1] for record in records)


def time_to_reach(records: Sequence[Record], target: float) -> list[float]:
    """After how many iterations the mean of ``WINDOW`` epochs first was ``target`` or more; infinity if it never is."""
    found = []
    for record in records:
        there = np.flatnonzero(np.asarray(_smooth(record)) >= target)
        found.append(float(record.curve[0][there[0]]) if there.size else math.inf)
    return found


def usual_processor(records: Iterable[Record]) -> str:
    """The one that ran most of the trainings: durations are compared on it alone."""
    return Counter(record.processor for record in records).most_common(1)[0][0]


def seconds_an_iteration(groups: Groups) -> tuple[str, dict[str, list[float]]]:
    """How long an iteration took each trainer on the usual processor; validation on patches is in it.

    Returns:
        The name of the processor; and of each training there the seconds, as the median over its epochs, by trainer.
    """
    records = [record for by_trainer in groups.values() for found in by_trainer.values() for record in found]
    processor = usual_processor(records)
    durations: dict[str, list[float]] = {}
    for record in records:
        if record.processor == processor:
            usual = record.usual_epoch / record.facts["settings"]["iterations"]
            durations.setdefault(record.training.trainer, []).append(usual)
    return processor, durations


def _smooth(record: Record) -> list[float]:
    """The mean of each epoch and those before it, ``WINDOW`` in all; fewer at the start."""
    _, _, dice = record.curve
    return [mean(dice[max(0, i + 1 - WINDOW) : i + 1]) for i in range(len(dice))]


def draw_curves(groups: Groups, trainers: Sequence[str], path: Path) -> None:
    """Panels for each schedule, against iterations and against minutes; every training thin, their mean thick."""
    from matplotlib import colormaps

    _, speed = seconds_an_iteration(groups)
    colors = {trainer: colormaps["tab10"](i % 10) for i, trainer in enumerate(trainers)}
    with new_figure(11.5, 0.6 + 3.1 * len(groups)) as figure:
        axes = figure.subplots(len(groups), 2, squeeze=False, sharey=True)
        for (schedule, by_trainer), (left, right) in zip(groups.items(), axes, strict=True):
            for trainer, records in by_trainer.items():
                iterations = np.array(records[0].curve[0])
                curves = np.array([_smooth(record) for record in records])
                panels = [(left, iterations)]
                if trainer in speed:
                    panels.append((right, iterations * median(speed[trainer]) / 60))
                for axis, x in panels:
                    axis.plot(x, curves.T, color=colors[trainer], linewidth=0.6, alpha=0.45)
                    axis.plot(x, curves.mean(axis=0), color=colors[trainer], linewidth=2.2, label=trainer)
            left.set_ylabel(f"{schedule}: Dice on validation patches")
            for axis in (left, right):
                axis.grid(alpha=0.25)
                axis.set_xlim(left=0)
                axis.set_ylim(0, 1)
        axes[-1][0].set_xlabel("iterations")
        axes[-1][1].set_xlabel("minutes")
        handles = {line.get_label(): line for axis in axes.ravel() for line in axis.get_legend_handles_labels()[0]}
        figure.legend(handles.values(), handles, loc="outside upper center", ncols=4, fontsize=8)
        save(figure, path, dpi=110)
