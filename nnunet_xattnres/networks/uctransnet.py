"""UCTransNet (Wang et al., AAAI 2022) on nnU-Net's U-Nets: skips that go through a transformer over their channels.

Encoder, decoder stages, transposed convolutions, heads and their state-dict keys are nnU-Net's. Added are ``cct``, the
channel transformer that the four finest skips go through together, and ``cca``, one attention over the channels of the
skip in front of each concatenation. Symbols follow the paper: skip i has C_i channels, and all four have T tokens.

What differs from the paper, because plans differ:
- Any number of levels, 2D and 3D, any strides. Skips deeper than the fourth are handed on as they are.
- Upsampling, heads and deep supervision are nnU-Net's; norm and nonlinearity are those of the plan.
- No ReLU after the scale of CCA. In the paper it does nothing, for skips are outputs of ReLUs. Here it would cut the
  negative values of a leaky ReLU.
- What returns from the tokens is convolved and normalised before it is enlarged, not after. The numbers are the same,
  for each is only repeated, and there is far less to compute and to keep.
"""

from collections.abc import Sequence
from math import prod
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet, ResidualEncoderUNet
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from nnunet_xattnres.common.autocast import without_autocast
from nnunet_xattnres.networks.upstream import Encoder, block, check_input, make_picklable, strides_of, with_idle_heads

SKIPS, LAYERS, HEADS, DROPOUT = 4, 4, 4, 0.1


class Tokens(nn.Module):
    """A skip as tokens and back: T patches of its map, each a vector of its C channels.

    Args:
        encoder: nnU-Net's; it is not part of this module.
        channels: C.
        patch: how many positions of the map a token stands for, on each axis.
        grid: of the tokens, at the patch size of the plans; T is its product.
    """

    def __init__(self, encoder: Encoder, channels: int, patch: tuple[int, ...], grid: tuple[int, ...]) -> None:
        super().__init__()
        self.patch, self.grid = patch, grid
        self.embed = encoder.conv_op(channels, channels, patch, patch)
        self.position = nn.Parameter(torch.zeros(1, *grid, channels))  # whose shape tells weights of another grid
        self.dropout = nn.Dropout(DROPOUT)
        self.restore = block(encoder, channels, channels, 1)

    def forward(self, skip: Tensor) -> Tensor:
        """Of a map, (B, C, *spatial), the tokens, (B, T, C)."""
        x = self.embed(skip)
        return self.dropout(x.flatten(2).transpose(1, 2) + self._positions(tuple(x.shape[2:])))

    def _positions(self, grid: tuple[int, ...]) -> Tensor:
        """The position table, enlarged or shrunk where the image is not as large as the plans say."""
        table: Tensor = self.position
        if grid != self.grid:
            mode = "bilinear" if len(grid) == 2 else "trilinear"
            table = F.interpolate(table.movedim(-1, 1), grid, mode=mode).movedim(1, -1)
        return table.flatten(1, -2)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *more: Any) -> None:
        """Also tables of before they had the axes of the grid, (1, T, C)."""
        table = state_dict.get(f"{prefix}position")
        if table is not None and table.ndim == 3 and table.shape[1] == prod(self.grid):
            state_dict[f"{prefix}position"] = table.unflatten(1, self.grid)
        super()._load_from_state_dict(state_dict, prefix, *more)

    def add_to(self, skip: Tensor, tokens: Tensor) -> Tensor:
        """The map plus what has become of its tokens, each over all positions that it stands for."""
        grid = [n // p for n, p in zip(skip.shape[2:], self.patch, strict=True)]
        x = self.restore(tokens.transpose(1, 2).unflatten(2, grid))
        return skip + F.interpolate(x, skip.shape[2:], mode="nearest")


class ChannelAttention(nn.Module):
    """Each channel of each skip looks at the channels of all; the heads are not split.

    Args:
        channels: C_i of each skip; K is their sum.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        wide = sum(channels)
        self.queries = nn.ModuleList(nn.Linear(c, HEADS * c, bias=False) for c in channels)
        self.key = nn.Linear(wide, HEADS * wide, bias=False)
        self.value = nn.Linear(wide, HEADS * wide, bias=False)
        self.outs = nn.ModuleList(nn.Linear(c, c, bias=False) for c in channels)
        self.attention_dropout, self.dropout = nn.Dropout(DROPOUT), nn.Dropout(DROPOUT)

    def forward(self, sets: Sequence[Tensor], everything: Tensor) -> list[Tensor]:
        """Of the token sets, (B, T, C_i), and of all in one, (B, T, K), what is added to each set."""
        key, value = _wide(_heads(self.key(everything))), _heads(self.value(everything))
        mixed = [self._mix(_heads(query(x)), key, value) for query, x in zip(self.queries, sets, strict=True)]
        return [self.dropout(out(x)) for out, x in zip(self.outs, mixed, strict=True)]

    def _mix(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Of (B, heads, T, C_i), and twice (B, heads, T, K), the mean over the heads, (B, T, C_i)."""
        with without_autocast(query.device.type):  # sums over T tokens, then a softmax: not in half
            scores = _wide(query).transpose(2, 3) @ key / key.shape[3] ** 0.5
            # over each head's C_i x K matrix: instance norm, which torch refuses for a matrix of one number
            weights = F.layer_norm(scores, scores.shape[2:]).softmax(3)
        return (value @ self.attention_dropout(weights).to(value.dtype).transpose(2, 3)).mean(1)


def _heads(x: Tensor) -> Tensor:
    """(B, T, heads * C) -> (B, heads, T, C)"""
    return x.unflatten(2, (HEADS, -1)).transpose(1, 2)


def _wide(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Layer(nn.Module):
    """Channel attention, then an MLP for each skip, both on normalised tokens and added to them.

    Args:
        channels: C_i of each skip.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.norm_all = _norm(sum(channels))
        self.norms = nn.ModuleList(map(_norm, channels))
        self.attention = ChannelAttention(channels)
        self.mlps = nn.ModuleList(
            nn.Sequential(_norm(c), nn.Linear(c, 4 * c), nn.GELU(), nn.Linear(4 * c, c)) for c in channels
        )

    def forward(self, sets: Sequence[Tensor]) -> list[Tensor]:
        """Of the token sets, (B, T, C_i), new ones."""
        everything = self.norm_all(torch.cat(list(sets), 2))
        added = self.attention([norm(x) for norm, x in zip(self.norms, sets, strict=True)], everything)
        sets = [x + y for x, y in zip(sets, added, strict=True)]
        return [x + mlp(x) for x, mlp in zip(sets, self.mlps, strict=True)]


def _norm(channels: int) -> nn.LayerNorm:
    return nn.LayerNorm(channels, eps=1e-6)


class ChannelTransformer(nn.Module):
    """CCT: the finest skips, at most four, go through a transformer together.

    All become the same grid of tokens, whose stride is that of the level below the deepest of them.

    Args:
        encoder: nnU-Net's; it is not part of this module.
        patch_size: of the images, which the position tables are made for.

    Attributes:
        grid: of the tokens, at that patch size.
        tokens: for each skip, the finest first, its ``Tokens``.
    """

    def __init__(self, encoder: Encoder, patch_size: Sequence[int]) -> None:
        super().__init__()
        strides, channels = strides_of(encoder), encoder.output_channels[:-1][:SKIPS]
        stride = strides[len(channels)]
        self.grid = tuple(n // d for n, d in zip(patch_size, stride, strict=True))
        patches = [tuple(a // b for a, b in zip(stride, fine, strict=True)) for fine in strides[: len(channels)]]
        self.tokens: Any = nn.ModuleList(
            Tokens(encoder, c, patch, self.grid) for c, patch in zip(channels, patches, strict=True)
        )
        self.layers = nn.ModuleList(Layer(channels) for _ in range(LAYERS))
        self.norms = nn.ModuleList(map(_norm, channels))

    def forward(self, skips: Sequence[Tensor]) -> list[Tensor]:
        """Of all skips, the finest first, those that stand in their places."""
        finest, deeper = skips[: len(self.tokens)], skips[len(self.tokens) :]
        sets = [tokens(skip) for tokens, skip in zip(self.tokens, finest, strict=True)]
        for layer in self.layers:
            sets = layer(sets)
        new = zip(self.tokens, finest, self.norms, sets, strict=True)
        return [*(tokens.add_to(skip, norm(x)) for tokens, skip, norm, x in new), *deeper]


class ChannelCrossAttention(nn.Module):
    """CCA: the channels of a skip, scaled by what the means of the skip and of the decoder's map say.

    Args:
        skip_channels: of the skip.
        channels: of the upsampled map beside it.
    """

    def __init__(self, skip_channels: int, channels: int) -> None:
        super().__init__()
        self.of_skip = nn.Linear(skip_channels, skip_channels)
        self.of_upsampled = nn.Linear(channels, skip_channels)

    def forward(self, skip: Tensor, upsampled: Tensor) -> Tensor:
        """Of two maps, (B, channels, *spatial), the skip's again."""
        scores = self.of_skip(skip.flatten(2).mean(2)) + self.of_upsampled(upsampled.flatten(2).mean(2))
        return skip * (scores / 2).sigmoid().unflatten(1, (-1, *[1] * (skip.ndim - 2)))


class _ChannelTransformerUNet(nn.Module):
    """CCT, CCA and the forward pass, for a U-Net of upstream as the next base class."""

    encoder: Encoder
    decoder: Any
    unseen = (
        "Its transformer weighs channels of skips, for a whole patch: these are no weights of sources at a position."
    )

    def __init__(self, *args: Any, patch_size: Sequence[int] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        channels = self.encoder.output_channels
        if len(channels) < 2:
            raise ValueError("n_stages is 1; a U-Net needs at least 2 stages")
        self.strides = strides_of(self.encoder)
        self.cct = ChannelTransformer(self.encoder, _checked(patch_size, self.strides[-1]))
        # nnU-Net's transposed convolutions give the skip's width
        self.cca = nn.ModuleList(ChannelCrossAttention(c, c) for c in reversed(channels[:-1]))
        make_picklable(self)

    @property
    def note(self) -> str:
        """What the log of a training says of it."""
        grid = " x ".join(map(str, self.cct.grid))
        return f"UCTransNet: {len(self.cct.tokens)} of {len(self.cca)} skips transformed, on a grid of {grid} tokens"

    def forward(self, x: Tensor) -> Tensor | list[Tensor]:
        """Segment ``x``, (B, input channels, *spatial).

        Returns:
            The logits, (B, num_classes, *spatial); with ``decoder.deep_supervision`` those of every decoder stage, the
            highest resolution first.

        Raises:
            ValueError: for another number of axes or of channels, a size that the network's strides do not divide, and
                a dtype that is not floating.
        """
        check_input(x, self.encoder, self.strides[-1])
        decoder, outputs = self.decoder, []
        *skips, x = self.encoder(x)
        skips, last = self.cct(skips), len(self.cca) - 1
        for j, cca in enumerate(self.cca):
            x = decoder.transpconvs[j](x)
            x = decoder.stages[j](torch.cat((x, cca(skips[last - j], x)), 1))
            if decoder.deep_supervision or j == last:
                outputs.append(decoder.seg_layers[j](x))
        if decoder.deep_supervision:
            return outputs[::-1]
        return with_idle_heads(decoder, outputs[0]) if self.training else outputs[0]


def _checked(patch_size: Sequence[int] | None, divisors: tuple[int, ...]) -> Sequence[int]:
    """The patch size; ValueError for one that no position table can be made for."""
    if patch_size is None:
        raise ValueError("patch_size is missing: the position tables are made for it; give that of the configuration")
    fits = len(patch_size) == len(divisors)
    if not fits or any(n < 1 or n % d for n, d in zip(patch_size, divisors, strict=True)):
        raise ValueError(
            f"patch_size is {list(patch_size)}; it must have {len(divisors)} axes, multiples of {list(divisors)}"
        )
    return patch_size


class UCTransNet(_ChannelTransformerUNet, PlainConvUNet):
    """UCTransNet on ``PlainConvUNet``.

    Args:
        *args: as ``PlainConvUNet``'s.
        patch_size: of the configuration; the learned positions of the tokens are a table for it. For images of another
            size the table is interpolated.
        **kwargs: as ``PlainConvUNet``'s.

    Attributes:
        cct: the ``ChannelTransformer`` of the finest skips.
        cca: the ``ChannelCrossAttention`` of each decoder stage, the coarsest first.

    Raises:
        ValueError: without a patch size, or for one that the strides do not divide.
    """


class ResidualEncoderUCTransNet(_ChannelTransformerUNet, ResidualEncoderUNet):
    """UCTransNet on ``ResidualEncoderUNet``; arguments as in ``UCTransNet``."""
