"""What a source is good for: the Dice when it is taken out of one read (ours; cf. arXiv 2606.13168)."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_xattnres.commands.inspect.predictor import WatchedPredictor, mask_of, preprocess
from nnunet_xattnres.commands.inspect.truth import MEAN, read_reference
from nnunet_xattnres.common.errors import naming
from nnunet_xattnres.common.numbers import mean_of
from nnunet_xattnres.nnunet.masks import dice_of
from nnunet_xattnres.reads.history import source_names
from nnunet_xattnres.reads.recorder import knocked_out


def knock_out_each(
    predictor: WatchedPredictor,
    cases: dict[str, list[str]],
    references: dict[str, Path],
    names: dict[str, str],
    on_step: Callable[[], None],
) -> list[dict[str, Any]]:
    """Predict every case once as it is and once without each source of each read.

    Args:
        references: the true mask of each case.
        names: of the labels, by their key in a summary.json.
        on_step: called after every prediction.

    Returns:
        One row for each case, read, source and label with the Dice before and after, NaN where neither mask has it.

    Raises:
        UserError: naming the case that failed, and why.
    """
    rows: list[dict[str, Any]] = []

    def knock_out(case: str, files: list[str]) -> None:
        image, properties = preprocess(predictor, files)
        reference = read_reference(predictor, references[case])

        def dice(read: str | None, source: int = 0) -> dict[str, float]:
            with knocked_out(predictor.network, read, source) if read is not None else nullcontext():
                logits = predictor.predict_logits_from_preprocessed_data(image)
            mask = mask_of(predictor, logits, properties)
            on_step()
            return dice_of(predictor.label_manager, mask, reference)

        before = dice(None)
        for read, k, source in pairs_of(predictor.network):
            for key, after in dice(read, k).items():
                values = {"dice": before[key], "dice_without": after}
                name = names.get(key, key)
                rows.append({"case": case, "read": read, "source": source, "label": key, "name": name, **values})

    for case, files in cases.items():
        with naming(case):
            knock_out(case, files)
    return rows


def pairs_of(network: Any) -> Iterator[tuple[str, int, str]]:
    """Every read with every source that can be taken out of it: all of those of reads with several."""
    for read, sources in source_names(network).items():
        for k, source in enumerate(sources if len(sources) > 1 else []):
            yield read, k, source


def knockout_means(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each read, source and label, and for the mean over the labels: means over the cases that have both.

    ``only_with`` and ``only_without`` count the cases that have the Dice of one of the two predictions alone: there it
    has a label that is not in the truth, which is a Dice of 0, and the other is right, which is none. No mean has them.
    """
    found = []
    for read, source in dict.fromkeys((row["read"], row["source"]) for row in rows):
        these = [row for row in rows if (row["read"], row["source"]) == (read, source)]
        means = []
        for label, name in dict.fromkeys((row["label"], row["name"]) for row in these):
            values = np.array([(row["dice"], row["dice_without"]) for row in these if row["label"] == label])
            means.append({"label": label, "name": name, **_over_cases(values)})
        means.append({"label": MEAN, "name": "", **_over_labels(means)})
        found += [{"read": read, "source": source, **row} for row in means]
    return found


def _over_cases(values: NDArray[np.float64]) -> dict[str, Any]:
    """``values``: (cases, 2), with the source and without."""
    there = ~np.isnan(values)
    both, alone = there.all(axis=1), there.sum(axis=1) == 1
    before, after = (mean_of(column) for column in values[both].T.tolist())
    only_with, only_without = there[alone].sum(axis=0).tolist()
    return _row(before, after, int(both.sum()), only_with, only_without)


def _over_labels(means: list[dict[str, Any]]) -> dict[str, Any]:
    """The mean of those that have one; the most cases of a label, and how many are left out of all labels together."""
    before, after = (mean_of([row[name] for row in means]) for name in ("dice", "dice_without"))
    only_with, only_without = (sum(row[name] for row in means) for name in ("only_with", "only_without"))
    return _row(before, after, max(row["cases"] for row in means), only_with, only_without)


def _row(before: float, after: float, n_cases: int, only_with: int, only_without: int) -> dict[str, Any]:
    values = {"dice": before, "dice_without": after, "difference": after - before, "cases": n_cases}
    return {**values, "only_with": only_with, "only_without": only_without}
