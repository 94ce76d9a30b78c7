"""The operator under a read; it knows torch and nothing of networks.

``history_read`` takes one of several paths to the same result; ``read_path`` says which: the rule's, or a forced one.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from nnunet_xattnres.ops import reference
from nnunet_xattnres.ops.choice import (
    CUSTOM_OPS,
    FUSED_CHANNELS,
    PATHS,
    VARIABLE,
    forced_path,
    only_plain_torch,
    read_path,
)

if CUSTOM_OPS:
    from nnunet_xattnres.ops import operator, resize

__all__ = ["FUSED_CHANNELS", "PATHS", "VARIABLE", "forced_path", "history_read", "read_path", "resize_to_each"]


def resize_to_each(x: Tensor, sizes: Sequence[Sequence[int]], *, path: str | None = None) -> list[Tensor]:
    """Resize ``x``, (B, C, *spatial), to each of several sizes, linearly, with ``align_corners=False``.

    Args:
        x: a map of 2 or 3 spatial axes and any floating dtype.
        sizes: spatial sizes, as many axes each.
        path: forces the path, as in ``history_read``.

    Returns:
        A map (B, C, *size) for each size, in the dtype of ``x``.

    Raises:
        ValueError: for another number of axes, a size that is not positive, a dtype that is not floating, or a forced
            path that is unknown or cannot compute there.
    """
    return (reference if only_plain_torch(x.device, path=path) else resize).resize_to_each(x, sizes)


def history_read(
    pool: Sequence[Tensor],
    projections: Sequence[Tensor | None],
    pseudo_query: Tensor,
    key_scale: Tensor,
    size: Sequence[int],
    *,
    skip: int | None = None,
    below: Tensor | None = None,
    eps: float = 1e-6,
    return_weights: bool = False,
    path: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Read a pool of earlier stage outputs with one learned pseudo-query, by the path that ``read_path`` names.

    With v_k = Resize(P_k h_k): l_k(x) = <w, RMSNorm(v_k(x))>, a(x) = softmax over k of l_k(x), and the read is
    r(x) = sum over k of a_k(x) v_k(x), at every position x: the mechanism of XAttnRes, arXiv 2604.03297. What
    is not the paper's is marked (ours). All paths are exact; ``reference.history_read`` says the same in code.

    Args:
        pool: N feature maps h_k, each (B, C_k, *spatial) with its own C_k, spatial size and floating dtype.
        projections: N weights P_k of 1x1 convolutions without bias, (C, C_k); None for a map that is read as it is:
            it has C channels already (ours).
        pseudo_query: w, (C).
        key_scale: g, the learned scale of the RMSNorm over the channels, (C).
        size: the spatial size of the read, 2 or 3 axes. A map of any other size is resized, linearly, with
            ``align_corners=False``.
        skip: the index of a source that is added to the read; it has no projection, and its size is ``size`` (ours).
        below: a map (B, C_below, *size) to stand before the result, as in a U-Net's decoder stage (ours).
        eps: added to the mean square inside the RMSNorm.
        return_weights: also return the weights a_k. While gradients are recorded this takes the reference, and its
            memory.
        path: forces one of ``PATHS``; None leaves it to NNUNET_XATTNRES_PATH, if that is set, and otherwise to the
            rule.

    Returns:
        The read, (B, C, *size), in the widest dtype of the maps, or with ``below`` (B, C_below + C, *size); with
        ``return_weights`` also the weights, (B, N, *size), which sum to one over the sources. Norm, scores and softmax
        are computed in float32 or wider.

    Raises:
        ValueError: when the arguments do not fit each other: another number of projections than of maps, other batch
            sizes, channels, shapes or numbers of axes than the above, a size that is not positive, a dtype that is not
            floating, or several devices; it names the source by its index. And for a forced path that is unknown or
            cannot compute there.
    """
    arguments = pool, projections, pseudo_query, key_scale, size
    options: dict[str, Any] = {"skip": skip, "below": below, "eps": eps, "return_weights": return_weights}
    taken = read_path(pseudo_query.device, pseudo_query.numel(), return_weights, path=path)
    if taken == "reference":
        return reference.history_read(*arguments, **options)
    return operator.history_read(*arguments, **options, path=forced_path(path))
