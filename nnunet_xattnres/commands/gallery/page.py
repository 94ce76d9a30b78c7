"""The page of a gallery: one HTML file in which one goes through the slices of every case."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from nnunet_xattnres.commands.gallery.cells import Volume
from nnunet_xattnres.commands.gallery.material import Material, Model
from nnunet_xattnres.nnunet.results import label_names
from nnunet_xattnres.pages.page import about, folded, heading, legend, table, write_page
from nnunet_xattnres.pages.viewer import Case, case_html

_OPEN = 8  # cases that are not folded when the page opens
_ROWS = 1000  # of a table on the page at most


def part_of(volume: Volume, models: Sequence[Model], number: int, cases: int, colors: Mapping[int, str]) -> str:
    """The HTML of a case; ``number`` is its number among ``cases``."""
    chosen = volume.chosen
    masks = {"truth": volume.truth}
    masks |= {f"{model.name}: {model.mean(chosen.case):.3f}": volume.predictions[model.name] for model in models}
    name = f"{chosen.case} ({chosen.why})" if chosen.why else chosen.case
    case = Case(name, volume.image, volume.spacing, volume.window, masks, volume.z)
    return case_html(case, number, cases, colors, opened=number < _OPEN)


def write_gallery(path: Path, material: Material, parts: Sequence[str], colors: Mapping[str, str]) -> None:
    """Write the page.

    Args:
        parts: the cases.
        colors: of the labels, by their names.
    """
    text = (
        "Every case as image, truth and masks, slice by slice, smaller than in the files. Below each mask stands its "
        "Dice over the whole case: the mean over the labels that the mask or the truth has."
    )
    dice, each = _rows(material), "Every case and label"
    if len(dice) > _ROWS:
        dice, each = _means(material), "The mean of every case over its labels"
    numbers = table(dice) if len(dice) <= _ROWS else f"<p>These are {len(dice)} lines, too many for a page.</p>"
    body = [
        about({**{model.name: str(model.folder) for model in material.models}, "cases": material.scope}),
        *(f"<p>{escape(note)}</p>" for note in material.notes),
        heading("The cases", text),
        legend(colors),
        *parts,
        heading("Dice"),
        folded(f"{each} ({len(material.cases)} cases, of which {len(parts)} are shown above)", numbers),
    ]
    write_page(path, "Masks side by side", body)


def _means(material: Material) -> list[dict[str, Any]]:
    return [{"case": case, **{model.name: model.mean(case) for model in material.models}} for case in material.cases]


def _rows(material: Material) -> list[dict[str, Any]]:
    names = label_names(material.dataset["labels"])
    first, rows = material.models[0], []
    for case in material.cases:
        for key in first.dice[case]:
            values = {model.name: model.dice[case].get(key, float("nan")) for model in material.models}
            rows.append({"case": case, "label": names.get(key, key), **values})
    return rows
