"""Each case in turn: its prediction, what is read while it is made, its Dice, and what the page shows of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.commands.inspect.maps import MapsWatcher, in_the_image, seen_of, write_maps
from nnunet_xattnres.commands.inspect.pictures import draw_overlay
from nnunet_xattnres.commands.inspect.predictor import WatchedPredictor, mask_of, preprocess, watched
from nnunet_xattnres.commands.inspect.routing import RoutingWatcher, routing_rows
from nnunet_xattnres.commands.inspect.truth import read_reference
from nnunet_xattnres.common.errors import naming
from nnunet_xattnres.common.files import replacing_folder
from nnunet_xattnres.nnunet.classes import Classes
from nnunet_xattnres.nnunet.images import read_image, shown_channels, window_of
from nnunet_xattnres.nnunet.masks import dice_of
from nnunet_xattnres.nnunet.results import label_names
from nnunet_xattnres.pages.slices import colors_of, fullest
from nnunet_xattnres.pages.viewer import Case, case_html
from nnunet_xattnres.reads.history import source_names

_SHOWN, _OPEN = 50, 8  # cases that are on the page at most, and of those the ones that are not folded when it opens
Maps = dict[str, tuple[Sequence[str], NDArray[np.float32]]]


@dataclass
class Seen:
    """What was seen of all cases.

    Attributes:
        routing: the rows of routing.csv.
        dice: the rows of dice.csv; none without true masks.
        cases: the HTML of each that the page shows.
        colors: of the labels in it, by their names.
    """

    routing: list[dict[str, Any]] = field(default_factory=list)
    dice: list[dict[str, Any]] = field(default_factory=list)
    cases: list[str] = field(default_factory=list)
    colors: dict[str, str] = field(default_factory=dict)


def predict_each(
    predictor: WatchedPredictor,
    cases: dict[str, list[str]],
    references: dict[str, Path],
    reads: Sequence[str],
    out: Path,
    on_case: Callable[[], None],
) -> Seen:
    """Predict each case, write its mask and the maps of ``reads`` into ``out``.

    Args:
        references: the true mask of each case, or none.
        on_case: called after every case.

    Raises:
        UserError: naming the case that failed, and why.
    """
    names, sources = label_names(predictor.dataset_json["labels"]), source_names(predictor.network)
    routing, seen = RoutingWatcher(predictor.label_manager), Seen()
    classes = Classes.of(predictor.dataset_json["labels"])
    colors = colors_of(list(classes.names), classes.ignored)
    seen.colors = {classes.names[value]: color for value, color in colors.items()}
    shown = min(len(cases), _SHOWN)

    def look_at(number: int, case: str, files: list[str]) -> None:
        mask, maps, picture, properties = _predict(predictor, case, files, reads, routing, out)
        truth = read_reference(predictor, references[case]) if references else None
        dice = {} if truth is None else dice_of(predictor.label_manager, mask, truth)
        seen.dice += [
            {"case": case, "label": key, "name": names.get(key, key), "dice": value} for key, value in dice.items()
        ]
        if number < shown:
            masks = {"prediction": mask} | ({} if truth is None else {"truth": truth})
            named = {names.get(key, key): value for key, value in dice.items()}
            view = _view(predictor, classes, case, picture, properties, masks, named, maps)
            seen.cases.append(case_html(view, number, shown, colors, opened=number < _OPEN))
        if number == 0:  # one is enough as a file: it takes longer than a small image's maps
            for read, (_, weights) in maps.items():
                title = f"{case}: what {read} reads (mean weight over the slice)"
                overlay = out / "maps" / f"{case}_{read}_overlay.png"
                seen_part = seen_of(predictor, properties)
                draw_overlay(picture, mask, weights, seen_part, sources[read], properties["spacing"], overlay, title)

    for number, (case, files) in enumerate(cases.items()):
        with naming(case):
            look_at(number, case, files)
        on_case()
    seen.routing = routing_rows(routing, sources, names)
    return seen


def _view(
    predictor: WatchedPredictor,
    classes: Classes,
    case: str,
    picture: NDArray[Any],
    properties: dict[str, Any],
    masks: dict[str, NDArray[Any]],
    dice: dict[str, float],
    maps: Maps,
) -> Case:
    """What the page shows of a case."""
    merged = {name: classes.merged(mask) for name, mask in masks.items()}
    window = window_of(predictor.plans_manager.plans, predictor.configuration_manager.configuration)
    image = shown_channels(predictor.plans_manager.image_reader_writer_class, picture)
    first = fullest(list(merged.values()), classes.ignored)
    return Case(case, image, properties["spacing"], window, merged, first, dice, maps, seen_of(predictor, properties))


def _predict(
    predictor: WatchedPredictor,
    case: str,
    files: list[str],
    reads: Sequence[str],
    routing: RoutingWatcher,
    out: Path,
) -> tuple[NDArray[Any], Maps, NDArray[Any], dict[str, Any]]:
    """The mask, the maps and the image, all as the file was read, and nnU-Net's properties of the case."""
    image, properties = preprocess(predictor, files)
    watchers = {read: MapsWatcher(read) for read in reads}
    with watched(predictor, routing, *watchers.values()):
        logits = predictor.predict_logits_from_preprocessed_data(image)
    mask = mask_of(predictor, logits, properties)
    del logits  # before the maps, which are as large
    writer = predictor.plans_manager.image_reader_writer_class()
    ending = predictor.dataset_json["file_ending"]
    with replacing_folder(out / "predictions", ()) as partial:  # whole, or not among what is kept if the case fails
        writer.write_seg(mask, str(partial / f"{case}{ending}"), properties)
    sources = source_names(predictor.network)
    maps: Maps = {}
    for read in list(watchers):
        weights = in_the_image(predictor, watchers.pop(read).maps(), image, properties)
        maps[read] = sources[read], weights
        with replacing_folder(out / "maps", ()) as partial:
            write_maps(weights, sources[read], properties, partial / f"{case}_{read}")
    return mask, maps, read_image(writer, files)[0], properties
