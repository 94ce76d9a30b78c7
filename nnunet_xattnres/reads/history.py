"""The history of a network: what its stages have put out so far, and which reads look at it."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from nnunet_xattnres.ops import resize_to_each
from nnunet_xattnres.ops.choice import forced_path


class Stage(NamedTuple):
    """A stage whose output stands in the history.

    Attributes:
        name: the paper's: e1 ... eS for the encoder, d1 ... d(S-1) for the decoder.
        channels: of its output.
        strides: how much smaller its output is than the network's input, for each axis.
    """

    name: str
    channels: int
    strides: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, tuple[int, ...]]:
        """What two stages must share so that one's output can be read by the other as it is."""
        return self.channels, self.strides


class History:
    """The stage outputs so far; a map that is read at coarser sizes is resized to them once, for all its readers.

    Where the reference is forced, it is left to the reads: the specification resizes every map itself. A size is found
    by its strides, for while a network is traced or exported it need be no number.

    Args:
        path: the path of the reads, if it is forced.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = forced_path(path)
        self.maps: list[Tensor] = []
        self._resized: list[dict[tuple[int, ...], Tensor]] = []

    def append(self, x: Tensor, stage: Stage, coarser: Mapping[tuple[int, ...], Sequence[int]]) -> None:
        """Add the output of a stage, (B, C, *spatial).

        Args:
            x: the output.
            stage: which computed it.
            coarser: the sizes at which it will be read resized, by their strides.
        """
        sizes = {strides: size for strides, size in coarser.items() if strides != stage.strides}
        if self.path == "reference":
            sizes = {}
        self.maps.append(x)
        resized = resize_to_each(x, list(sizes.values()), path=self.path)
        self._resized.append(dict(zip(sizes, resized, strict=True)))

    def at(self, strides: tuple[int, ...]) -> list[Tensor]:
        """The pool of a read at the size of these strides: the maps, in the order computed."""
        return [resized.get(strides, x) for x, resized in zip(self.maps, self._resized, strict=True)]


def with_history(network: nn.Module) -> Any:
    """The network that keeps a history: ``network``, or the first one inside it; None where there is none."""
    return next((module for module in network.modules() if hasattr(module, "history_stages")), None)


def reads_of(network: nn.Module) -> dict[str, Any]:
    """The reads of a network, by the name of the stage that each feeds; empty for a network without reads."""
    return dict(getattr(with_history(network), "reads", {}).items())


def source_names(network: nn.Module) -> dict[str, list[str]]:
    """The sources of every read, in the order of its pool: the order computed."""
    order = [stage.name for stage in with_history(network).history_stages]
    return {name: order[: len(read.source_channels)] for name, read in reads_of(network).items()}
