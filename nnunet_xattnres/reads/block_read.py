"""The two reads of the block-level XAttnRes, as modules: of a stage's memory (ISAR), and in a skip's place (DKVMR).

Both weigh maps of one shape, with a query for each position: a_n = softmax over n of <q, RMSNorm(K_n)> / sqrt(D), and
the read is sum over n of a_n V_n.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from nnunet_xattnres.reads.history_read import with_zeros

EPS = 1e-6  # as in ops.reference


class ISAR(nn.Module):
    """The read of a stage's memory before one of its blocks, with a query field that starts at zero (SAPQ).

    Of the memory V_1 ... V_N, the last is x, on which the block would run without the read: K_n = V_n and q = W x.
    At the start it is the mean of the memory. W is a bare parameter and no convolution: nnU-Net's
    ``network.apply(network.initialize)`` leaves it alone.

    Args:
        channels: C, of every map.
        n_sources: N, how many maps the memory holds.

    Attributes:
        query: W, (C, C), starts at zero.
        key_scale: g of the RMSNorm, (C), starts at one.

    Raises:
        ValueError: for fewer than two sources: there would be nothing to choose from, and no gradient for W.
    """

    def __init__(self, channels: int, n_sources: int) -> None:
        super().__init__()
        if n_sources < 2:
            raise ValueError(f"n_sources is {n_sources}; a memory that is read holds 2 maps or more")
        self.channels, self.n_sources = channels, n_sources
        self.query = nn.Parameter(torch.zeros(channels, channels))
        self.key_scale = nn.Parameter(torch.ones(channels))

    def forward(
        self, memory: Sequence[Tensor], *, return_weights: bool = False, without: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Read ``memory``, N maps (B, C, *spatial).

        Args:
            memory: the sources; the last one makes the queries.
            return_weights: also return the weights of the sources.
            without: the index of a source that is left out, and with it all that are the same map: the softmax is then
                over the others. Their weights are zero.

        Returns:
            The read, (B, C, *spatial), in the dtype of the last map; with ``return_weights`` also the weights,
            (B, N, *spatial). Norm, scores and softmax are computed in float32 or wider.

        Raises:
            ValueError: when the memory does not fit what this read was built for.
        """
        _check(memory, self.n_sources, self.channels, "memory")
        indices = _without(memory, without)
        kept, x = [memory[n] for n in indices], memory[-1]
        query = torch.matmul(self.query.to(x.dtype), x.flatten(2)).unflatten(2, x.shape[2:])
        weights = weigh(query, kept, self.key_scale)
        read = combine(weights, kept).to(x.dtype)
        return (read, with_zeros(weights, indices, len(memory))) if return_weights else read

    def extra_repr(self) -> str:
        return f"channels={self.channels}, n_sources={self.n_sources}"


class DKVMR(nn.Module):
    """The read of an encoder stage's block outputs in the place of its skip.

    Of the blocks b_1 ... b_N: (K_n, V_n) = split of a 1x1 convolution of b_n, one for all n, from C to d + C channels;
    q = a 1x1 convolution of the upsampled map, from C to d. Read and upsampled map are fused to C channels.

    A stage of one block leaves nothing to choose: V_1 is the read, and there is neither query nor key.

    Args:
        channels: C, of every map.
        n_sources: N, how many blocks the encoder stage has.
        conv_op: ``nn.Conv2d`` or ``nn.Conv3d``.
        fusion: from (B, 2C, *spatial), the upsampled map before the read, to (B, C, *spatial).

    Attributes:
        key_channels: d = max(8, C / 2).
        key_value: from b_n to K_n and V_n, in this order; to V_n alone, if there is one block.
        query: from the upsampled map to q; None for one block.
        key_scale: g of the RMSNorm, (d), starts at one; None for one block.

    Raises:
        ValueError: for no source.
    """

    query: _ConvNd | None
    key_scale: Tensor | None

    def __init__(self, channels: int, n_sources: int, conv_op: type[_ConvNd], fusion: nn.Module) -> None:
        super().__init__()
        if n_sources < 1:
            raise ValueError(f"n_sources is {n_sources}; an encoder stage has 1 block or more")
        self.channels, self.n_sources = channels, n_sources
        self.key_channels = max(8, channels // 2) if n_sources > 1 else 0
        self.key_value = conv_op(channels, self.key_channels + channels, 1, bias=False)  # type: ignore[call-arg, arg-type]
        self.query = self.key_scale = None
        if n_sources > 1:
            self.query = conv_op(channels, self.key_channels, 1, bias=False)  # type: ignore[call-arg, arg-type]
            self.key_scale = nn.Parameter(torch.ones(self.key_channels))
        self.fusion = fusion

    @property
    def map_channels(self) -> int:
        """The channels of the maps that its convolutions put out, together."""
        return self.n_sources * (self.key_channels + self.channels) + self.key_channels + self.channels

    def forward(
        self, blocks: Sequence[Tensor], below: Tensor, *, return_weights: bool = False, without: int | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Read ``blocks``, N maps (B, C, *spatial), and fuse the read with ``below``.

        Args:
            blocks: the outputs of the encoder stage's blocks, in the order computed.
            below: the upsampled map, (B, C, *spatial); it makes the queries.
            return_weights: also return the weights of the blocks.
            without: the index of a block that is left out: the softmax is then over the others. Its weight is zero.

        Returns:
            What the decoder stage's first block takes, (B, C, *spatial); with ``return_weights`` also the weights,
            (B, N, *spatial). Norm, scores and softmax are computed in float32 or wider.

        Raises:
            ValueError: when the maps do not fit what this read was built for.
        """
        _check([*blocks, below], self.n_sources + 1, self.channels, "blocks and the map below")
        indices = _without(blocks, without)
        pairs = [self.key_value(blocks[n]).tensor_split([self.key_channels], dim=1) for n in indices]
        values = [value for _, value in pairs]
        if self.query is None or self.key_scale is None:
            weights = torch.ones_like(values[0][:, :1], dtype=torch.promote_types(values[0].dtype, torch.float32))
            read = values[0]
        else:
            weights = weigh(self.query(below), [key for key, _ in pairs], self.key_scale)
            read = combine(weights, values)
        fused: Tensor = self.fusion(torch.cat((below, read.to(below.dtype)), dim=1))
        return (fused, with_zeros(weights, indices, len(blocks))) if return_weights else fused

    def extra_repr(self) -> str:
        return f"channels={self.channels}, n_sources={self.n_sources}, key_channels={self.key_channels}"


def weigh(query: Tensor, keys: Sequence[Tensor], key_scale: Tensor) -> Tensor:
    """softmax over n of <q, RMSNorm(K_n)> / sqrt(D) at every position, in float32 or wider, under autocast, too.

    Args:
        query: q, (B, D, *spatial).
        keys: N maps K_n of the same shape.
        key_scale: g of the RMSNorm over the channels, (D).

    Returns:
        The weights, (B, N, *spatial).
    """
    dtype = torch.promote_types(query.dtype, torch.float32)
    scale = key_scale.to(dtype) * query.shape[1] ** -0.5
    scaled = query.to(dtype) * scale.view(-1, *[1] * (query.ndim - 2))
    scores = [
        (scaled * key).sum(dim=1) * torch.rsqrt(key.square().mean(dim=1) + EPS) for key in (k.to(dtype) for k in keys)
    ]
    return torch.stack(scores, dim=1).softmax(dim=1)


def combine(weights: Tensor, values: Sequence[Tensor]) -> Tensor:
    """Sum over n of a_n V_n, (B, C, *spatial), in the dtype of the weights, (B, N, *spatial), or a wider one."""
    read: Tensor = sum(a.unsqueeze(1) * v for a, v in zip(weights.unbind(1), values, strict=True))  # type: ignore[assignment]
    return read


def _without(maps: Sequence[Tensor], without: int | None) -> list[int]:
    """The indices of all maps but one, which may be there more than once: the published memory has x twice."""
    if without is None:
        return list(range(len(maps)))
    if not 0 <= without < len(maps):
        raise ValueError(f"without is {without}, but there are the sources 0 to {len(maps) - 1}")
    kept = [n for n, x in enumerate(maps) if x is not maps[without]]
    if not kept:
        raise ValueError(f"source {without} cannot be left out: it is the only one, and a read needs at least one")
    return kept


def _check(maps: Sequence[Tensor], n: int, channels: int, called: str) -> None:
    """Refuse what a read was not built for; ``called`` is what the maps are."""
    if len(maps) != n:
        raise ValueError(f"{called}: {len(maps)} maps, this read was built for {n}")
    for k, x in enumerate(maps):
        if x.ndim < 3 or x.shape[1] != channels or x.shape != maps[0].shape:
            raise ValueError(
                f"{called}: map {k} has shape {tuple(x.shape)}; expected {channels} channels, and one shape for all: "
                f"the first has {tuple(maps[0].shape)}"
            )
