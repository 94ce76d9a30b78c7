"""What is converted already: a line for each case, so that a conversion which was stopped goes on."""

import json
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import content_of, write_text

NAME = "conversion.jsonl"  # beside dataset.json; nnU-Net does not look at it


class Record:
    """A file of JSON lines: first how the data set is converted, then each case that is complete."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Open the record of a folder, or begin it.

        Raises:
            UserError: when the folder is not ours, or was made in another way.
        """
        self.path = folder / NAME
        self.cases: dict[str, dict[str, Any]] = {}
        if not self.path.exists():
            if folder.exists() and content_of(folder):
                raise UserError(f"{folder} is not empty, and no conversion made it; choose another number with -d")
            folder.mkdir(parents=True, exist_ok=True)
            self._write([settings])
            return
        there, *cases = _whole_lines(self.path)
        for key, value in there.items():  # there may be more now: another part, in files of another kind
            if settings.get(key) != value:
                raise UserError(
                    f"{folder} was made with {key} {_said(value)}, and now it is {_said(settings.get(key))}; "
                    "choose another number with -d, or remove the folder"
                )
        self.cases = {case["name"]: case for case in cases}
        self._write([settings, *self.cases.values()])  # without the half of a line that a sudden end may have left

    def _write(self, lines: list[dict[str, Any]]) -> None:
        write_text("".join(json.dumps(line) + "\n" for line in lines), self.path)

    def add(self, case: dict[str, Any]) -> None:
        """Note a case whose files are complete."""
        self.cases[case["name"]] = case
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(case) + "\n")  # a line that a power failure loses costs its case once more


def _said(value: Any) -> str:
    return "not set" if value is None else repr(value)


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    *whole, _ = path.read_text(encoding="utf-8").split("\n")
    try:
        return [json.loads(line) for line in whole] or [{}]
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); remove its folder and convert anew") from None
