"""What is converted already: a line for each case, so that a conversion which was stopped goes on."""

import hashlib
import json
from pathlib import Path
from typing import Any

from nnunet_xattnres.common.errors import UserError
from nnunet_xattnres.common.files import content_of, sha256_of, write_text

NAME = "conversion.jsonl"  # beside dataset.json; nnU-Net does not look at it
DESCRIBES = ("splits_final.json", "dataset.json")
_WRITTEN = "written"


class Record:
    """A file of JSON lines: first how the data set is converted, then each case that is complete."""

    def __init__(self, folder: Path, settings: dict[str, Any]) -> None:
        """Read the record of a folder, if it has one; nothing is written before ``begin``.

        Raises:
            UserError: when the folder is not ours, was made in another way, or what describes it was edited since.
        """
        self.path, self._settings = folder / NAME, settings
        self.cases: dict[str, dict[str, Any]] = {}
        self._written: dict[str, list[str]] = {}  # file -> digests of what conversions have written
        if not self.path.exists():
            if folder.exists() and content_of(folder):
                raise UserError(f"{folder} is not empty, and no conversion made it; choose another number with -d")
            return
        there, *cases = _whole_lines(self.path)
        files = [folder / name for name in DESCRIBES if (folder / name).exists()]
        there.setdefault(_WRITTEN, {file.name: [sha256_of(file)] for file in files})  # of before they were noted
        self._written = there.pop(_WRITTEN)
        for key, value in there.items():  # there may be more now: another part, in files of another kind
            if settings.get(key) != value:
                raise UserError(
                    f"{folder} was made with {key} {_said(value)}, and now it is {_said(settings.get(key))}; "
                    "choose another number with -d, or remove the folder"
                )
        self.cases = {case["name"]: case for case in cases}
        for file in files:
            if sha256_of(file) not in self._written.get(file.name, ()):
                raise UserError(
                    f"{file} is not as a conversion left it, and would be lost: move it away to go on, and put it back "
                    "afterwards"
                )

    def begin(self) -> None:
        """Write all that is known: without the half of a line that a sudden end may have left."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = [{**self._settings, _WRITTEN: self._written}, *self.cases.values()]
        write_text("".join(json.dumps(line) + "\n" for line in lines), self.path)

    def describe(self, name: str, content: Any) -> None:
        """Write one of ``DESCRIBES``, and note that we did; None removes it."""
        file = self.path.with_name(name)
        if content is None:
            file.unlink(missing_ok=True)
            return
        text = json.dumps(content, indent=4) + "\n"
        digests = self._written.setdefault(name, [])
        if (digest := hashlib.sha256(text.encode()).hexdigest()) not in digests:
            digests.append(digest)
            self.begin()  # before the file: a sudden end between the two must not make it look edited
        write_text(text, file)

    def drop(self, name: str) -> None:
        """Forget a case whose files are not in the folder any more."""
        if self.cases.pop(name, None) is not None:
            self.begin()

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
