"""What came out: the Dice of the held-out cases, and a picture of them."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from nnunet_xattnres.common.files import read_json
from nnunet_xattnres.common.numbers import mean_of
from nnunet_xattnres.nnunet import results
from nnunet_xattnres.nnunet.results import Dice, label_names
from nnunet_xattnres.pages.figure import new_figure, save


def structures_of(raw: Path) -> dict[str, int]:
    """The structures of a dataset in nnU-Net's raw format: name -> label."""
    labels = read_json(raw / "dataset.json")["labels"]
    return {name: label for name, label in labels.items() if name != "background"}


def read_dice(summary: Path, structures: Mapping[str, int]) -> Dice:
    """The Dice of every structure in every case, from nnU-Net's summary.json; NaN where it has none."""
    names = label_names(structures)
    return {
        case.removesuffix(".nii.gz"): {names[key]: value for key, value in dice.items()}
        for case, dice in results.read_dice(summary).items()
    }


def mean_dice(dice: Dice) -> dict[str, float]:
    """The mean of each structure over the cases that have a Dice; NaN where none has."""
    structures = next(iter(dice.values()), {})
    return {structure: mean_of([case[structure] for case in dice.values()]) for structure in structures}


def dice_table(dice: Dice) -> Table:
    """A row for each case and one for the means, a column for each structure."""
    means = mean_dice(dice)
    table = Table(title="Dice on the held-out cases")
    table.add_column("case")
    for structure in means:
        table.add_column(structure, justify="right")
    for case, values in dice.items():
        table.add_row(case, *map(format_dice, values.values()))
    table.add_section()
    table.add_row("mean", *map(format_dice, means.values()), style="bold")
    return table


def format_dice(value: float) -> str:
    return "n/a" if math.isnan(value) else f"{value:.3f}"


def draw_overlay(raw: Path, predictions: Path, dice: Dice, path: Path) -> None:
    """Draw up to three held-out cases: the image, the truth and the prediction, in the slice that shows most of both.

    Args:
        raw: the dataset's folder in nnUNet_raw.
        predictions: the folder with a segmentation for each held-out case.
        dice: which cases there are, and what stands over the predictions.
        path: the picture.
    """
    from matplotlib.patches import Patch

    structures, cases = structures_of(raw), list(dice)[:3]
    with new_figure(9.6, 3.3 * len(cases) + 0.5) as figure:
        axes = figure.subplots(len(cases), 3, squeeze=False)
        for row, case in zip(axes, cases, strict=True):
            image = _read(raw / "imagesTs" / f"{case}_0000.nii.gz")
            truth, predicted = _read(raw / "labelsTs" / f"{case}.nii.gz"), _read(predictions / f"{case}.nii.gz")
            i = _best_slice(truth, list(structures.values()))
            scores = ", ".join(f"{name} {format_dice(value)}" for name, value in dice[case].items())
            titles = (f"{case}, slice {i}", "truth", f"prediction: Dice {scores}")
            for axis, title, labels in zip(row, titles, (None, truth[i], predicted[i]), strict=True):
                axis.imshow(image[i], cmap="gray", interpolation="bicubic")
                axis.set_title(title, fontsize=9)
                axis.set_axis_off()
                if labels is not None:
                    _paint(axis, labels, structures)
        patches = [Patch(color=_color(label), label=name) for name, label in structures.items()]
        figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), frameon=False)
        save(figure, path)


def _paint(axis: Any, labels: Any, structures: Mapping[str, int]) -> None:
    for label in structures.values():
        mask = labels == label
        if mask.any():  # contour would warn of an empty one
            axis.contourf(mask, levels=[0.5, 1.5], colors=[_color(label)], alpha=0.3)
            axis.contour(mask, levels=[0.5], colors=[_color(label)], linewidths=1.5)


def _color(label: int) -> str:
    return ("deepskyblue", "orange")[label % 2]  # apart for the colour-blind, too


def _best_slice(truth: Any, labels: Sequence[int]) -> int:
    """The slice that shows most of all structures; the root lets a little of each win over much of one."""
    shares = [(truth == label).sum(axis=(1, 2)) / max(1, (truth == label).sum()) for label in labels]
    return int(sum(share**0.5 for share in shares).argmax())


def _read(path: Path) -> Any:
    import SimpleITK

    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))
