"""The read of a pool as a module: its parameters, its start, and what it asks of its sources."""

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_xattnres.ops import history_read
from nnunet_xattnres.ops.arguments import check_below, check_maps
from nnunet_xattnres.reads.projection import as_projection, make_projection, matrix_of


class HistoryRead(nn.Module):
    """One read: align every map of the pool, score it with one pseudo-query, weigh, sum (arXiv 2604.03297).

    The pseudo-query starts at zero, so a read starts as the plain mean of the aligned maps. It is a bare parameter
    and no convolution: nnU-Net's ``network.apply(network.initialize)`` leaves it alone. A pool of one has nothing
    to choose from and needs neither query nor norm; when its source is direct, the read is the identity (ours).

    Args:
        source_channels: the channels C_k of the N sources, in the order of the pool.
        target_channels: the channels C of the read.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        direct: the indices of the sources that already have the target's channels and size; they are read as they
            are, without a projection (ours).
        gated: scale the read with one learned number for each channel (ours).

    Attributes:
        pseudo_query: w, (C), starts at zero; None for a pool of one.
        key_scale: g of the RMSNorm, (C), starts at one; None for a pool of one.
        projections: for each source a 1x1 ``conv_op`` without bias, called without a map and giving its weight
            (``reads.projection``); ``nn.Identity`` for the direct ones.
        gate: the scale of the read, (C), starts at zero; None if the read is not gated.
        path: forces the path of ``ops.history_read``; None, as at the start, leaves it to the rule.
        name: the errors of this module begin with it; in a network it is that of the stage that the read feeds.

    Raises:
        ValueError: for an empty pool, for a direct source whose channels are not the target's, and for another
            ``conv_op``.
    """

    pseudo_query: Tensor | None
    key_scale: Tensor | None
    gate: Tensor | None
    path: str | None = None  # also of a module that was pickled before there was one
    name: str | None = None  # likewise

    def __init__(
        self,
        source_channels: Sequence[int],
        target_channels: int,
        conv_op: type[_ConvNd],
        direct: Collection[int] = (),
        gated: bool = False,
    ) -> None:
        super().__init__()
        if not source_channels:
            raise ValueError("source_channels is empty: a read needs at least one source")
        for k in direct:
            if not 0 <= k < len(source_channels):
                raise ValueError(f"direct names source {k}, but there are {len(source_channels)} sources")
            if source_channels[k] != target_channels:
                raise ValueError(
                    f"source {k} cannot be direct: it has {source_channels[k]} channels, the target {target_channels}"
                )
        self.source_channels = tuple(source_channels)
        self.target_channels = target_channels
        self.direct = frozenset(direct)
        self.projections = nn.ModuleList(
            nn.Identity() if k in self.direct else make_projection(conv_op, channels, target_channels)
            for k, channels in enumerate(source_channels)
        )
        several = len(source_channels) > 1
        self.pseudo_query = nn.Parameter(torch.zeros(target_channels)) if several else None
        self.key_scale = nn.Parameter(torch.ones(target_channels)) if several else None
        self.gate = nn.Parameter(torch.zeros(target_channels)) if gated else None

    def forward(
        self,
        pool: Sequence[Tensor],
        size: Sequence[int],
        *,
        skip: int | None = None,
        below: Tensor | None = None,
        return_weights: bool = False,
        without: int | None = None,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Read ``pool``, N maps (B, C_k, *spatial), at the spatial size ``size``.

        Args:
            pool: the sources; a finer map may come at ``size`` already, resized.
            size: the spatial size of the read.
            skip: the index of a direct source that is added to the read, after the gate if there is one.
            below: a map (B, C_below, *size) to stand before the result, as in a decoder stage.
            return_weights: also return the weights of the sources.
            without: the index of a source that is left out: the softmax is then over the others (ours, to see what the
                source is good for). The skip stays. Its weight is zero.

        Returns:
            The read, (B, C, *size), or with ``below`` (B, C_below + C, *size); with ``return_weights`` also the
            weights of the sources, (B, N, *size).

        Raises:
            ValueError: when the pool does not fit the sources that this read was built for, or the rest does not fit
                the pool, or a module that was put in the place of a projection gives something else.
        """
        self._check(pool, size)
        self._check_indices(skip, without)
        query, scale = self.pseudo_query, self.key_scale
        if query is None or scale is None:
            # the softmax over one source is 1 whatever its score; zeros keep to the one code path
            query = scale = pool[0].new_zeros(self.target_channels, dtype=torch.float32)
        projections = self._matrices()
        options: dict[str, Any] = {"return_weights": return_weights, "path": self.path}
        if self.gate is None and without is None:
            return history_read(pool, projections, query, scale, size, skip=skip, below=below, **options)
        # what the operator is not given below, or would number otherwise
        if without is not None:
            check_maps(pool, size)
        if below is not None:
            check_below(below, pool[0], size)
        kept = [k for k in range(len(pool)) if k != without]
        maps, their_projections = [pool[k] for k in kept], [projections[k] for k in kept]
        found = history_read(maps, their_projections, query, scale, size, **options)
        read, weights = found if isinstance(found, tuple) else (found, None)
        out = self._around(read, None if skip is None else pool[skip], below)
        return out if weights is None else (out, with_zeros(weights, kept, len(pool)))

    def _matrices(self) -> list[Tensor | None]:
        """The projections as the operator takes them, (C, C_k)."""
        return [
            None
            if k in self.direct
            else matrix_of(projection, channels, self.target_channels, self._named(f"the projection of source {k}"))
            for k, (projection, channels) in enumerate(zip(self.projections, self.source_channels, strict=True))
        ]

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for k, module in enumerate(self.projections):
            self.projections[k] = as_projection(module)

    def _around(self, read: Tensor, skip: Tensor | None, below: Tensor | None) -> Tensor:
        """The gate, the skip and the map below put around the read, as the operator does where there is no gate."""
        if self.gate is not None:
            read = self.gate.to(read.dtype).view(-1, *[1] * (read.ndim - 2)) * read
        out = read if skip is None else skip + read
        return out if below is None else torch.cat((below, out), dim=1)

    def extra_repr(self) -> str:
        gated = ", gated" if self.gate is not None else ""
        return f"source_channels={self.source_channels}, direct={sorted(self.direct)}{gated}"

    def _check(self, pool: Sequence[Tensor], size: Sequence[int]) -> None:
        """Refuse what this read was not built for; what no read can do, ``history_read`` refuses."""
        if len(pool) != len(self.source_channels):
            raise self._refusal(f"the pool has {len(pool)} maps, this read was built for {len(self.source_channels)}")
        for k, (h, channels) in enumerate(zip(pool, self.source_channels, strict=True)):
            if h.ndim != len(size) + 2 or h.shape[1] != channels:
                raise self._refusal(
                    f"source {k} has shape {tuple(h.shape)}; expected (batch, {channels}, and {len(size)} spatial axes)"
                )
            if k in self.direct and tuple(h.shape[2:]) != tuple(size):
                raise self._refusal(
                    f"source {k} is direct but has the spatial size {tuple(h.shape[2:])} instead of {tuple(size)}"
                )

    def _check_indices(self, skip: int | None, without: int | None) -> None:
        n = len(self.source_channels)
        if skip is not None and not 0 <= skip < n:
            raise self._refusal(f"skip is {skip}, but the pool has the sources 0 to {n - 1}")
        if skip is not None and skip not in self.direct:
            raise self._refusal(
                f"source {skip} cannot be the skip: it is not direct; this read's direct sources are "
                f"{sorted(self.direct)}; the others need not have its channels and size"
            )
        if without is not None and not 0 <= without < n:
            raise self._refusal(f"without is {without}, but the pool has the sources 0 to {n - 1}")
        if without is not None and n == 1:
            raise self._refusal("source 0 cannot be left out: it is the only one, and a read needs at least one")

    def _refusal(self, why: str) -> ValueError:
        return ValueError(self._named(why))

    def _named(self, text: str) -> str:
        return text if self.name is None else f"the read {self.name}: {text}"


def with_zeros(weights: Tensor, kept: Sequence[int], n: int) -> Tensor:
    """The weights of n sources, (B, n, *spatial), from those that were kept, (B, len(kept), *spatial)."""
    if len(kept) == n:
        return weights
    indices = torch.tensor(kept, device=weights.device)
    return weights.new_zeros(len(weights), n, *weights.shape[2:]).index_copy(1, indices, weights)
