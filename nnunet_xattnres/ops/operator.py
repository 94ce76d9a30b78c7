"""The one operator of a read: which path computes it is decided when it runs, forward and backward apart (ours).

Every path can write the read and L, the log-sum-exp of the scores, and every backward starts from the inputs and L. So
any backward fits any forward, and unless a path is forced nothing depends on it: no graph, no compile cache, no
checkpoint. For the backward the inputs and L are kept; L is a map of one channel at the size of the read, in float32 or
wider. It is kept whatever the path, for a graph knows of none, but between tiles and tiles, whose backward makes its
softmax anew, nothing is written into it.
It is not decided while tracing, because a traced size may be symbolic, and a graph outlives the GPU that it was traced
on.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from nnunet_xattnres.common.autocast import without_autocast
from nnunet_xattnres.common.failures import first_line, is_device_lost, is_out_of_memory
from nnunet_xattnres.ops import flops, fused, reference, tiled
from nnunet_xattnres.ops.arguments import check_read
from nnunet_xattnres.ops.capture import transformed_gradient
from nnunet_xattnres.ops.chosen import FALLBACK, Choice, anything_chosen, choice_of, remember, tiles_of
from nnunet_xattnres.ops.reference import widest_dtype
from nnunet_xattnres.ops.resize import resized_first
from nnunet_xattnres.ops.shapes import ReadShape

FORWARD: dict[str, Callable[..., None]] = {
    "fused": fused.forward,
    "tiled": tiled.forward,
    "tiled-small": tiled.forward_in_small_tiles,
}
BACKWARD: dict[str, Callable[..., None]] = {
    "fused": fused.backward,
    "tiled": tiled.backward,
    "tiled-small": tiled.backward_in_small_tiles,
}
PATHS = {name: (FORWARD[name], BACKWARD[name]) for name in FORWARD}
_TILED = {"tiled", "tiled-small"}  # without log-sum, and with weights


@torch.library.custom_op(
    "nnunet_xattnres::history_read",
    mutates_args=(),
    schema="(Tensor[] pool, Tensor[] projections, Tensor query, Tensor? below, SymInt[] direct, SymInt[] size, "
    "SymInt? skip, float eps, str? path) -> (Tensor, Tensor)",
)
def _read(
    pool: list[Tensor],
    projections: list[Tensor],
    query: Tensor,
    below: Tensor | None,
    direct: list[int],
    size: list[int],
    skip: int | None,
    eps: float,
    path: str | None,
) -> tuple[Tensor, Tensor]:
    """The read after ``below``, and L, -inf where nobody takes it; the maps in ``direct`` have no projection."""
    out, log_sum = _read_fake(pool, projections, query, below, direct, size, skip, eps, path)
    if below is not None:
        out[:, : below.shape[1]] = below
    projected = _with_direct(projections, direct, len(pool))

    def run(choice: Choice) -> None:
        used: dict[str, Tensor] = {"log_sum": log_sum}
        if {choice.forward, choice.backward} <= _TILED:
            log_sum.fill_(float("-inf"))  # so that no backward can take it unnoticed
            used = {}
        FORWARD[choice.forward](pool, projected, query, size, skip=skip, eps=eps, out=out, **used)

    _compute(run, "forward", path, pool, direct, query, skip, out)
    return out, log_sum


@_read.register_fake
def _read_fake(
    pool: list[Tensor],
    projections: list[Tensor],
    query: Tensor,
    below: Tensor | None,
    direct: list[int],
    size: list[int],
    skip: int | None,
    eps: float,
    path: str | None,
) -> tuple[Tensor, Tensor]:
    batch, before = pool[0].shape[0], 0 if below is None else below.shape[1]
    dtype = widest_dtype(pool if below is None else [*pool, below])
    return query.new_empty(batch, before + query.shape[0], *size, dtype=dtype), query.new_empty(batch, *size)


@torch.library.custom_op(
    "nnunet_xattnres::history_read_backward",
    mutates_args=(),
    schema="(Tensor grad, Tensor log_sum, Tensor[] pool, Tensor[] projections, Tensor query, SymInt[] direct, "
    "SymInt? skip, float eps, str? path) -> Tensor[]",
)
def _read_backward(
    grad: Tensor,
    log_sum: Tensor,
    pool: list[Tensor],
    projections: list[Tensor],
    query: Tensor,
    direct: list[int],
    skip: int | None,
    eps: float,
    path: str | None,
) -> list[Tensor]:
    """The gradients of the maps, of the projections and of the query."""
    gradients = _read_backward_fake(grad, log_sum, pool, projections, query, direct, skip, eps, path)
    n = len(pool)

    def run(choice: Choice) -> None:
        BACKWARD[choice.backward](
            *(grad, log_sum, pool, _with_direct(projections, direct, n), query),
            **{"skip": skip, "eps": eps, "d_pool": gradients[:n], "d_query": gradients[-1]},
            d_projections=_with_direct(gradients[n:-1], direct, n),
        )

    _compute(run, "backward", path, pool, direct, query, skip, grad)
    return gradients


@_read_backward.register_fake
def _read_backward_fake(
    grad: Tensor,
    log_sum: Tensor,
    pool: list[Tensor],
    projections: list[Tensor],
    query: Tensor,
    direct: list[int],
    skip: int | None,
    eps: float,
    path: str | None,
) -> list[Tensor]:
    return [t.new_empty(t.shape) for t in (*pool, *projections, query)]


def _choice(
    path: str | None, pool: Sequence[Tensor], direct: Sequence[int], query: Tensor, skip: int | None, out: Tensor
) -> Choice:
    if path is None and anything_chosen(query.device):
        return choice_of(query.device, ReadShape.of(pool, direct, len(query), skip, out))
    return Choice(path or FALLBACK, path or FALLBACK)


def _compute(
    run: Callable[[Choice], None],
    phase: str,
    path: str | None,
    pool: Sequence[Tensor],
    direct: Sequence[int],
    query: Tensor,
    skip: int | None,
    out: Tensor,
) -> None:
    """Run a phase by what is chosen; by tiles, from now on, where kernels that have proved themselves cannot be built.

    Triton needs a C compiler and a folder to write to, which an earlier process on such a GPU had and this one need not
    have. What else goes wrong is raised, also where no tiles are right.
    """
    choice, tiles = _choice(path, pool, direct, query, skip, out), None
    try:
        run(choice)
    except Exception as error:
        failed = getattr(choice, phase)
        if path is None and failed not in _TILED and not (is_out_of_memory(error) or is_device_lost(error)):
            shape = ReadShape.of(pool, direct, len(query), skip, out)
            tiles = tiles_of(query.device, shape)
        if tiles is None:
            raise
        remember(query.device, shape, Choice(tiles, tiles))
        warnings.warn(f"{shape}: {failed} cannot run here, {tiles} is taken ({first_line(error)})", stacklevel=2)
    if tiles is not None:  # out of the block, in which what the kernels had allocated is still held
        run(Choice(tiles, tiles))


def _tiles_with_weights(
    path: str | None, pool: Sequence[Tensor], direct: Sequence[int], query: Tensor, skip: int | None, out: Tensor
) -> str | None:
    """The tiles that compute a read with its weights; None where no tiles are right, but something else is."""
    chosen = _choice(path, pool, direct, query, skip, out).forward
    if chosen in _TILED:
        return chosen
    return FALLBACK if path else tiles_of(query.device, ReadShape.of(pool, direct, len(query), skip, out))


def _with_direct(given: Sequence[Tensor], direct: Sequence[int], n: int) -> list[Tensor | None]:
    """One for each of n sources: the next of those given, None for a direct one."""
    rest = iter(given)
    return [None if k in direct else next(rest) for k in range(n)]


def _setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    pool, projections, query, below, ctx.direct, _, ctx.skip, ctx.eps, ctx.path = inputs
    ctx.n_pool = len(pool)
    ctx.below = None if below is None else (below.shape[1], below.dtype)
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(*pool, *projections, query, output[1])


def _backward(ctx: Any, grad: Tensor, _: Any) -> tuple[Any, ...]:
    *tensors, query, log_sum = ctx.saved_tensors
    n = ctx.n_pool
    found: Sequence[Tensor | None]
    if torch.is_grad_enabled() or transformed_gradient(grad):
        found = _gradients_by_the_reference(ctx, grad, tensors[:n], tensors[n:], query)
    else:
        found = _read_backward(grad, log_sum, tensors[:n], tensors[n:], query, ctx.direct, ctx.skip, ctx.eps, ctx.path)
    d_below = None if ctx.below is None else grad.narrow(1, 0, ctx.below[0]).to(ctx.below[1])
    d_direct: list[Tensor] | None = None if ctx.direct else []  # torch takes an empty list for one of tensors
    return found[:n], found[n:-1], found[-1], d_below, d_direct, None, None, None, None


def _gradients_by_the_reference(
    ctx: Any, grad: Tensor, pool: list[Tensor], projections: list[Tensor], query: Tensor
) -> list[Tensor | None]:
    """What ``_read_backward`` finds, as functions that can be differentiated in their turn, and transformed."""
    create_graph = torch.is_grad_enabled()
    with torch.enable_grad(), without_autocast(grad.device.type):
        inputs = [t.view_as(t) for t in (*pool, *projections, query)]  # a map that is two sources is two inputs
        wide = [h.to(query.dtype) for h in inputs[: len(pool)]]
        given = _with_direct(inputs[len(pool) : -1], ctx.direct, len(pool))
        ones, size = torch.ones_like(query), grad.shape[2:]
        read: Any = reference.history_read(wide, given, inputs[-1], ones, size, skip=ctx.skip, eps=ctx.eps)
        of_read = grad.narrow(1, grad.shape[1] - len(query), len(query)).to(read.dtype)  # a batched one takes no slices
        wanted = [t for t in inputs if t.requires_grad]
        found = iter(torch.autograd.grad(read, wanted, of_read, create_graph=create_graph))
    return [next(found) if t.requires_grad else None for t in inputs]


_read.register_autograd(_backward, setup_context=_setup_context)
flops.register()


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
    """Read a pool as ``reference.history_read`` does, whose arguments these are.

    Args:
        return_weights: also return the weights of the sources; by the tiles, and without gradients.
        path: one of ``PATHS``; None leaves it to the rule when the operator runs.

    Returns:
        The read, (B, C, *size), or with ``below`` (B, C_below + C, *size), in the widest dtype of the maps; with
        ``return_weights`` also the weights, (B, N, *size), in float32 or wider, as norm, scores and softmax are.

    Raises:
        ValueError: for what is no read; it names the source by its index.
    """
    check_read(pool, projections, pseudo_query, key_scale, size, skip=skip, below=below)
    dtype = torch.promote_types(widest_dtype(pool), torch.float32)
    query = pseudo_query.to(dtype) * key_scale.to(dtype)
    pool = [resized_first(h, p, size) for h, p in zip(pool, projections, strict=True)]
    given = [p for p in projections if p is not None]
    direct = [k for k, p in enumerate(projections) if p is None]
    if not return_weights:
        return _read(pool, given, query, below, direct, list(size), skip, eps, path)[0]
    with torch.no_grad():
        out, _ = _read_fake(pool, given, query, below, direct, list(size), skip, eps, path)
        if below is not None:
            out[:, : below.shape[1]] = below
        tiles = _tiles_with_weights(path, pool, direct, query, skip, out)
        if tiles is None:
            wide = [h.to(dtype) for h in pool]
            arguments: dict[str, Any] = {"skip": skip, "below": below, "eps": eps, "return_weights": True}
            read, weights = reference.history_read(wide, projections, query, torch.ones_like(query), size, **arguments)
            return read.to(out.dtype), weights
        weights = query.new_empty(len(out), len(pool), *size)
        FORWARD[tiles](pool, projections, query, size, skip=skip, eps=eps, out=out, weights=weights)
    return out, weights
