"""What the values in a mask stand for, so that a picture shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray


@dataclass(frozen=True)
class Classes:
    """The classes of a data set: its labels, or the combinations of its regions that a voxel can be in.

    Attributes:
        names: of each class, by the value that stands for it; the background is none of them.
        ignored: the value of nnU-Net's ignore label, where nobody has looked; None where there is none.
        same: further values of the same class, by which nnU-Net's prediction and the truth may differ, and that value.
    """

    names: Mapping[int, str]
    ignored: int | None
    same: Mapping[int, int]

    @classmethod
    def of(cls, labels: Mapping[str, Any]) -> "Classes":
        """``labels``: as in a dataset.json."""
        held: dict[int, list[str]] = {}
        for name, value in labels.items():
            for number in value if isinstance(value, list) else [value]:
                held.setdefault(int(number), []).append(name)
        values: dict[tuple[str, ...], list[int]] = {}
        for number in sorted(held):
            if number:
                values.setdefault(tuple(held[number]), []).append(number)
        names = {first: " and ".join(regions) for regions, (first, *_) in values.items()}
        return cls(
            names, labels.get("ignore"), {other: first for first, *others in values.values() for other in others}
        )

    def merged(self, mask: NDArray[Any]) -> NDArray[Any]:
        """The mask with one value for each class."""
        found = mask.copy()
        for value, first in self.same.items():
            found[mask == value] = first
        return found
