"""The text that nnU-Net writes while it trains: the files training_log_DATE.txt in a fold's folder."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.order import by_number


@dataclass(frozen=True)
class Epoch:
    """What the log says of one epoch; NaN for what it does not say.

    Attributes:
        train_loss, val_loss: their means over the epoch.
        dice: the pseudo Dice, on patches of the validation cases: the mean over the labels that have one.
        seconds: its duration.
    """

    train_loss: float = math.nan
    val_loss: float = math.nan
    dice: float = math.nan
    seconds: float = math.nan


@dataclass(frozen=True)
class TrainingLog:
    """The logs of a fold, as one.

    Attributes:
        epochs: by their numbers, from 0; an epoch that was done again, after a training was taken up, counts once.
        n_training_cases: None where the log does not say it.
        gpu_memory: the peak in MiB, which our trainers log; None elsewhere.
        parameters: of the network, which our trainers log; None elsewhere.
    """

    epochs: Mapping[int, Epoch]
    n_training_cases: int | None
    gpu_memory: int | None
    parameters: int | None


_LINE = re.compile(
    r": (?:Epoch (?P<epoch>\d+)|train_loss (?P<train_loss>\S+)|val_loss (?P<val_loss>\S+)"
    r"|Pseudo dice \[(?P<dice>.*)\]|Epoch time: (?P<seconds>[\d.]+) s)\s*$",
    re.MULTILINE,
)
_NUMBER = re.compile(r"nan|-?\d[\d.]*(?:e[-+]?\d+)?")


def read_log(folder: Path) -> TrainingLog:
    """What the logs of a fold's folder say.

    Raises:
        UserError: when there is no log, or one cannot be read; it names the file without its folder.
    """
    files = sorted(folder.glob("training_log_*.txt"), key=lambda file: by_number(file.name))  # 9 November, then 10
    if not files:
        raise UserError("there is no training_log_*.txt")
    try:
        text = "\n".join(file.read_text(encoding="utf-8", errors="replace") for file in files)
    except OSError as error:
        raise UserError(f"{Path(error.filename or files[0]).name} cannot be read: {error.strerror}") from None
    return TrainingLog(
        epochs=_epochs(text),
        n_training_cases=_last_number(r"This (?:random 80:20 )?split has (\d+) training", text),
        gpu_memory=_last_number(r"Peak GPU memory: (\d+) MiB", text),
        parameters=_parameters(text),
    )


def _epochs(text: str) -> dict[int, Epoch]:
    """Those that ended. Where one begins again, it and the later ones of before are forgotten."""
    found: dict[int, Epoch] = {}
    number = None
    for line in _LINE.finditer(text):
        if line["epoch"] is not None:
            number = int(line["epoch"])
            found = {n: epoch for n, epoch in found.items() if n < number}
        elif number is not None:
            name, value = str(line.lastgroup), line[str(line.lastgroup)]
            number_of = _mean_of_list if name == "dice" else _number
            found[number] = replace(found.get(number, Epoch()), **{name: number_of(value)})
    return found


def _mean_of_list(text: str) -> float:
    """Of ``0.9, nan``, or as NumPy 2 writes it: ``np.float32(0.9), np.float32(nan)``."""
    there = [_number(value) for value in _NUMBER.findall(re.sub(r"np\.float\d+", "", text)) if value != "nan"]
    return sum(there) / len(there) if there else math.nan


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _parameters(text: str) -> int | None:
    """What our trainers write: of this network, or of the plain one and the reads."""
    lines = re.findall(r": Parameters: (.*)", text)
    line = lines[-1] if lines else ""
    whole = _last_number(r"this network ([\d,]+)", line)
    plain, reads = _last_number(r"plain network ([\d,]+)", line), _last_number(r"reads ([\d,]+)", line)
    return whole if whole is not None or plain is None or reads is None else plain + reads


def _last_number(pattern: str, text: str) -> int | None:
    found = re.findall(pattern, text)
    return int(found[-1].replace(",", "")) if found else None
