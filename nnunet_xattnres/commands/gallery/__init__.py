"""Masks of several models side by side, for the eye: behind `nnunet-xattnres gallery`."""

from collections.abc import Sequence
from pathlib import Path

from nnunet_xattnres.commands.gallery.cells import read_case, row_of
from nnunet_xattnres.commands.gallery.choice import Chosen, choose
from nnunet_xattnres.commands.gallery.figure import draw
from nnunet_xattnres.commands.gallery.material import Material
from nnunet_xattnres.commands.gallery.page import part_of, write_gallery
from nnunet_xattnres.commands.gallery.predictions import of_predictions
from nnunet_xattnres.commands.gallery.trainings import of_trainings
from nnunet_xattnres.nnunet.pool import Progress
from nnunet_xattnres.pages.slices import colors_of

__all__ = ["FILES", "of_predictions", "of_trainings", "show"]

FILES = ("gallery.html", "gallery.png", "gallery.pdf")


def show(
    material: Material, out: Path, n: int, cases: Sequence[str], z: int | None, progress: Progress
) -> Sequence[Chosen]:
    """Write the page and the pictures, ``FILES``, into the folder ``out``.

    Args:
        n: how many cases to choose where none is named.
        cases: named ones, in their order.
        z: the slice to show; None for the one with the most foreground in the truth and all masks.

    Returns:
        The cases that are shown.

    Raises:
        UserError: when a file is missing or cannot be read, shapes differ, or there is no such slice or case.
    """
    chosen = [Chosen(case) for case in dict.fromkeys(cases)] or choose(material.models, n)
    classes = material.classes
    colors = colors_of(list(classes.names), classes.ignored)
    done = progress("drawing", len(chosen))
    rows, parts = [], []
    for number, one in enumerate(chosen):
        volume = read_case(material, one, z)
        rows.append(row_of(volume, {model.name: model.mean(one.case) for model in material.models}))
        parts.append(part_of(volume, material.models, number, len(chosen), colors))
        done()
    out.mkdir(parents=True, exist_ok=True)
    page, *pictures = (out / name for name in FILES)
    draw(rows, classes, colors, pictures)
    write_gallery(page, material, parts, {classes.names[value]: color for value, color in colors.items()})
    return chosen
