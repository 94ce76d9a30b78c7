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


class HistoryNetwork:
    """A network that keeps a history: what it shares with the others, whatever its encoder and decoder are.

    Attributes:
        reads: the ``HistoryRead`` of each stage that has one, by the stage's name.
        path: of the reads, if it is forced.
    """

    reads: Any
    path: str | None = None  # also of a network that was pickled before there was one

    def use_path(self, path: str | None) -> None:
        """Force the path that the reads take, one of ``ops.PATHS``; None for the rule again.

        It stands before the variable NNUNET_XATTNRES_PATH, and it is no part of the state dict. Whether the path can
        compute on the network's device shows when the network runs.

        Raises:
            ValueError: for an unknown path.
        """
        forced_path(path)
        self.path = path
        for read in self.reads.values():
            read.path = path


def with_history(network: nn.Module) -> Any:
    """The network that keeps a history: ``network``, or the first one inside it; None where there is none."""
    return next((module for module in network.modules() if hasattr(module, "history_stages")), None)


def with_reads(network: nn.Module) -> Any:
    """The network that has reads: ``network``, or the first one inside it; None where there is none.

    Such a network has ``reads``, modules by name. It keeps a history, which they read from its start on, or has
    ``read_sources``, the names of the sources of each. A read takes ``return_weights=True``, and then returns beside
    its output the weights of its sources, (B, N, *size); and ``without``, the index of a source that it leaves out.
    What these weights do not tell of a network, it may say in a line, ``unseen``.
    """
    marks = ("history_stages", "read_sources")
    return next((module for module in network.modules() if any(hasattr(module, mark) for mark in marks)), None)


def reads_of(network: nn.Module) -> dict[str, Any]:
    """The reads of a network by name, in the order computed; empty for a network without reads."""
    return dict(getattr(with_reads(network), "reads", {}).items())


def source_names(network: nn.Module) -> dict[str, list[str]]:
    """The sources of every read, in the order of its pool."""
    owner = with_reads(network)
    if hasattr(owner, "read_sources"):
        return dict(owner.read_sources)
    order = [stage.name for stage in getattr(owner, "history_stages", [])]
    return {name: order[: len(read.source_channels)] for name, read in reads_of(network).items()}
