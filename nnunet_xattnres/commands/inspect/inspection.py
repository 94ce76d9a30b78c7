"""What a trained network reads, and what that is good for: behind `nnunet-xattnres inspect`."""

from collections.abc import Sequence
from contextlib import redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from nnunet_xattnres.commands.inspect.cases import Seen, predict_each
from nnunet_xattnres.commands.inspect.identity import identity_of
from nnunet_xattnres.commands.inspect.knockout import knock_out_each, knockout_means, pairs_of
from nnunet_xattnres.commands.inspect.predictor import WatchedPredictor, cases_of, load_model
from nnunet_xattnres.commands.inspect.routing import ALL, write_rows
from nnunet_xattnres.commands.inspect.sections import (
    cases_section,
    files_section,
    knockout_section,
    network_section,
    picture_of_label,
    routing_section,
    summary_section,
)
from nnunet_xattnres.commands.inspect.truth import dice_means, references_of
from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import content_of, read_json, refuse_existing, replacing_folder, write_json
from nnunet_xattnres.nnunet.pool import Progress
from nnunet_xattnres.nnunet.results import label_names
from nnunet_xattnres.pages.page import write_page
from nnunet_xattnres.reads.history import source_names

__all__ = ["Inspection", "inspect_model"]

_TABLES = ("routing", "dice", "knockout", "knockout_cases")
# What an inspection may consist of, beside the pictures of the labels.
_WRITTEN = (
    *("report.html", "routing.png", "knockout.png", "predictions", "maps"),
    *(f"{table}.{ending}" for table in _TABLES for ending in ("csv", "json")),
)


@dataclass(frozen=True)
class Inspection:
    """What to look at.

    Attributes:
        model_folder: TRAINER__PLANS__CONFIGURATION in nnUNet_results.
        images: a folder of images, or one of them.
        folds: if none is named, all that are trained; ``all`` only where it is the only one.
        checkpoint: the name of the file in each fold.
        mirroring: predict with it; the weights are those of the unmirrored pass.
        maps: reads of which to write the weight of each source at each voxel.
        each_label: draw a picture for each label, too.
        references: a folder with the true masks; the page then shows them and the Dice.
        knockout: predict without each source of each read, too; needs ``references``.
        command: that asks for it, for the page.
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
    command: str = ""


def inspect_model(
    what: Inspection, out: Path, device: torch.device, progress: Progress, force: bool = False
) -> list[dict[str, Any]]:
    """Predict images with a trained model and write what it reads into the folder ``out``, whole or not at all.

    Args:
        force: replace the inspection that is in ``out``; other files in it stay.

    Returns:
        The rows of routing.csv.

    Raises:
        UserError: for input that cannot be inspected, when ``out`` holds something that is not to be replaced, and in
            the place of any error after the first prediction, and of Ctrl-C: it names the folder in ``out`` in which
            the finished predictions are.
    """
    what = replace(what, model_folder=what.model_folder.resolve())  # "." has no name
    refuse_existing(out, force)
    former = _inspection_in(out)
    if what.knockout and what.references is None:
        raise UserError("--knockout needs the true masks: name their folder with -gt")
    with redirect_stdout(StringIO()):  # nnU-Net tells of the folders in which it looks for the trainer
        predictor, checkpoints = load_model(
            what.model_folder, what.folds, what.checkpoint, device, mirroring=what.mirroring
        )
    identity = identity_of(what.model_folder, checkpoints)  # now: a training may replace them in the meantime
    cases = cases_of(predictor, what.images)
    references = {} if what.references is None else references_of(predictor, cases, what.references)
    sources = source_names(predictor.network)
    unknown = [read for read in what.maps if read not in sources]
    if unknown:
        raise UserError(f"--maps {unknown[0]}: the network has no such read; it has {', '.join(sources)}")

    with replacing_folder(out, former, overwrite=force, keep=True) as partial:
        seen = predict_each(predictor, cases, references, what.maps, partial, progress("predicting", len(cases)))
        # as nnUNetv2_predict does, for what evaluates them
        write_json(predictor.dataset_json, partial / "predictions" / "dataset.json")
        write_json(predictor.plans_manager.plans, partial / "predictions" / "plans.json")
        write_rows(seen.routing, partial / "routing.csv")
        if seen.dice:
            write_rows(seen.dice, partial / "dice.csv")
        knocked = _knock_out(predictor, cases, references, partial, progress) if what.knockout else []
        parts = _parts(what, predictor, identity, cases, seen, knocked, partial)
        write_page(partial / "report.html", "What the network reads", parts)
    return seen.routing


def _parts(
    what: Inspection,
    predictor: WatchedPredictor,
    identity: dict[str, str],
    cases: dict[str, list[str]],
    seen: Seen,
    knocked: list[dict[str, Any]],
    out: Path,
) -> list[str]:
    """The page, part by part; draws the pictures in it as files in ``out``."""
    device, means = str(predictor.device), dice_means(seen.dice) if seen.dice else []
    files = [Path(file) for case in cases.values() for file in case]
    return [
        summary_section(identity, what.command, files, list(cases), device, means),
        network_section(predictor.network, seen.routing),
        routing_section(seen.routing, out, what.each_label),
        cases_section(seen.cases, len(cases), seen.colors, means, seen.dice),
        *([knockout_section(knocked, out)] if knocked else []),
        files_section(identity),
    ]


def _knock_out(
    predictor: WatchedPredictor,
    cases: dict[str, list[str]],
    references: dict[str, Path],
    out: Path,
    progress: Progress,
) -> list[dict[str, Any]]:
    n_steps = len(cases) * (1 + len(list(pairs_of(predictor.network))))
    names = label_names(predictor.dataset_json["labels"])
    per_case = knock_out_each(predictor, cases, references, names, progress("knocking out", n_steps))
    means = knockout_means(per_case)
    write_rows(per_case, out / "knockout_cases.csv")
    write_rows(means, out / "knockout.csv")
    return means


def _inspection_in(out: Path) -> list[str]:
    """What an earlier inspection may have written into a folder; nothing where there is no folder, or an empty one.

    Raises:
        UserError: when something else is there.
    """
    if not out.exists() or (out.is_dir() and not content_of(out)):
        return []
    try:
        labels = {(row["region"], row["name"]) for row in read_json(out / "routing.json") if row["region"] != ALL}
        pictures = sorted(picture_of_label(*label) for label in labels)
    except (UserError, KeyError, TypeError):
        raise UserError(f"{out} holds no inspection that could be replaced; name another") from None
    return [*_WRITTEN, *pictures]
