"""What a trained network reads, and what that is good for: behind `nnunet-xattnres inspect`."""

import shutil
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres.commands.inspect.knockout import MEAN, knock_out_each, knockout_means, pairs_of, references_of
from nnunet_xattnres.commands.inspect.maps import MapsWatcher, in_the_image, write_maps
from nnunet_xattnres.commands.inspect.pictures import draw_knockout, draw_overlay, draw_routing
from nnunet_xattnres.commands.inspect.predictor import (
    WatchedPredictor,
    Watcher,
    cases_of,
    load_model,
    mask_of,
    preprocess,
    watched,
)
from nnunet_xattnres.commands.inspect.report import identity_of, write_page
from nnunet_xattnres.commands.inspect.routing import ALL, RoutingWatcher, routing_rows, write_rows
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.nnunet.results import label_names
from nnunet_xattnres.reads.history import source_names

__all__ = ["Inspection", "inspect_model"]


@dataclass(frozen=True)
class Inspection:
    """What to look at.

    Attributes:
        model_folder: TRAINER__PLANS__CONFIGURATION in nnUNet_results.
        images: a folder of images, or one of them.
        folds: all that are trained, if none is named.
        checkpoint: the name of the file in each fold.
        mirroring: predict with it; the weights are those of the unmirrored pass.
        maps: reads of which to write the weight of each source at each voxel.
        each_label: draw a picture for each label, too.
        references: a folder with the true masks, for ``knockout``.
        knockout: predict without each source of each read, too.
    """

    model_folder: Path
    images: Path
    folds: Sequence[str] = ()
    checkpoint: str = "checkpoint_final.pth"
    mirroring: bool = False
    maps: Sequence[str] = ()
    each_label: bool = False
    references: Path | None = None
    knockout: bool = False


Progress = Callable[[str, int], Callable[[], None]]  # from what is done, and how often, to what says that one is done


def inspect_model(what: Inspection, out: Path, device: torch.device, progress: Progress) -> list[dict[str, Any]]:
    """Predict images with a trained model and write what it reads into the folder ``out``, whole or not at all.

    Returns:
        The rows of routing.csv.

    Raises:
        UserError: for input that cannot be inspected, and when ``out`` holds something.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError(f"{out} exists and is not an empty folder; name another, or remove it first")
    if what.knockout and what.references is None:
        raise UserError("--knockout needs the true masks: name their folder with -gt")
    with redirect_stdout(StringIO()):  # nnU-Net tells of the folders in which it looks for the trainer
        predictor, checkpoints = load_model(
            what.model_folder, what.folds, what.checkpoint, device, mirroring=what.mirroring
        )
    cases = cases_of(predictor, what.images)
    references = {} if what.references is None else references_of(predictor, cases, what.references)
    sources = source_names(predictor.network)
    unknown = [read for read in what.maps if read not in sources]
    if unknown:
        raise UserError(f"--maps {unknown[0]}: the network has no such read; it has {', '.join(sources)}")

    partial = out.with_name(f"{out.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        (partial / "predictions").mkdir(parents=True)
        rows = _inspect(what, predictor, cases, sources, partial, progress)
        parts = _routing_parts(rows, partial, what.each_label)
        if what.knockout:
            parts += _knockout(predictor, cases, references, partial, progress)
        overlays = sorted((partial / "maps").glob("*_overlay.png"))
        parts += [(file.stem, "The weight of each source at each voxel of one slice.", file) for file in overlays]
        write_page(partial / "report.html", identity_of(what.model_folder, checkpoints), parts)
        if out.is_dir():
            out.rmdir()
        partial.rename(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return rows


def _inspect(
    what: Inspection,
    predictor: WatchedPredictor,
    cases: dict[str, list[str]],
    sources: dict[str, list[str]],
    out: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    """Predict each case, write its mask and its maps; the routing over all of them."""
    routing = RoutingWatcher(predictor.label_manager, label_names(predictor.dataset_json["labels"]))
    done = progress("predicting", len(cases))
    for case, files in cases.items():
        image, properties = preprocess(predictor, files)
        watchers = {read: MapsWatcher(read) for read in what.maps}
        with watched(predictor, _All([routing, *watchers.values()])):
            logits = predictor.predict_logits_from_preprocessed_data(image)
        mask = mask_of(predictor, logits, properties)
        writer = predictor.plans_manager.image_reader_writer_class()
        ending = predictor.dataset_json["file_ending"]
        writer.write_seg(mask, str(out / "predictions" / f"{case}{ending}"), properties)
        for read, watcher in watchers.items():
            maps = in_the_image(predictor, watcher.maps(), image, properties)
            (out / "maps").mkdir(exist_ok=True)
            write_maps(maps, sources[read], properties, out / "maps" / f"{case}_{read}")
            if case == next(iter(cases)):  # one is enough for a quick look: it takes longer than a small image's maps
                picture, _ = writer.read_images(files)
                spacing, title = properties["spacing"], f"{case}: what {read} reads (mean weight over the slice)"
                overlay = out / "maps" / f"{case}_{read}_overlay.png"
                draw_overlay(picture, mask, maps, sources[read], spacing, overlay, title)
        done()
    return routing_rows(routing.sums, sources)


class _All:
    """Several watchers as one."""

    def __init__(self, watchers: Sequence[Watcher]) -> None:
        self.watchers = watchers

    def start(self, image: Tensor) -> None:
        for watcher in self.watchers:
            watcher.start(image)

    def patch(self, place: tuple[Any, ...], importance: Tensor, logits: Tensor, weights: dict[str, Tensor]) -> None:
        for watcher in self.watchers:
            watcher.patch(place, importance, logits, weights)

    def end(self) -> None:
        for watcher in self.watchers:
            watcher.end()


def _routing_parts(rows: list[dict[str, Any]], out: Path, each_label: bool) -> list[tuple[str, str, Any]]:
    write_rows(rows, out / "routing.csv")
    everywhere = [row for row in rows if row["region"] == ALL]
    draw_routing(everywhere, out / "routing.png", "Mean weight of each source in each read")
    text = (
        "The mean over all positions of all images, each counted by nnU-Net's Gaussian. Before training, all sources "
        "of a read weigh the same: the uniform weight."
    )
    parts: list[tuple[str, str, Any]] = [("Routing", text, out / "routing.png")]
    labels = dict.fromkeys(row["region"] for row in rows if row["region"] != ALL)
    for label in labels if each_label else ():
        path = out / f"routing_{_file_name(label)}.png"
        of_label = [row for row in rows if row["region"] == label]
        draw_routing(of_label, path, f"Mean weight of each source in each read, within {label}")
        parts.append((f"Routing within {label}", "Where the network's own output has the label.", path))
    return [*parts, ("Routing, in numbers", "Entropies are in nats.", rows)]


def _knockout(
    predictor: WatchedPredictor,
    cases: dict[str, list[str]],
    references: dict[str, Path],
    out: Path,
    progress: Progress,
) -> list[tuple[str, str, Any]]:
    n_steps = len(cases) * (1 + len(list(pairs_of(predictor.network))))
    names = label_names(predictor.dataset_json["labels"])
    per_case = knock_out_each(predictor, cases, references, names, progress("knocking out", n_steps))
    rows = knockout_means(per_case)
    write_rows(per_case, out / "knockout_cases.csv")
    write_rows(rows, out / "knockout.csv")
    means = [row for row in rows if row["label"] == MEAN]
    draw_knockout(means, out / "knockout.png", "Change of the mean Dice without a source")
    text = (
        "A source is taken out of one read; the softmax is over the others. The weight of a source and this can differ."
    )
    return [("Knockout", text, out / "knockout.png"), ("Knockout, in numbers", "Means over the cases.", rows)]


def _file_name(label: str) -> str:
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in label)
