"""EMCAD's loss: of heads that are all at the size of the target."""

from collections.abc import Sequence
from itertools import combinations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

_WINDOW = 31  # pixels: what is near a border
_SMOOTH = 1e-5


class EMCADLoss(nn.Module):
    """Several labels: of the sum of each subset of heads. One label, or regions: of each head and of the sum of all.

    With one label nnU-Net has two channels; their difference is the logit of a sigmoid. Regions are a binary task each,
    and count alike (ours: the paper has none).

    Args:
        regions: whether channels are regions, which may overlap.
        ignore_label: pixels that count nothing. With regions the last channel of the target has them, if there are any.
    """

    def __init__(self, regions: bool = False, ignore_label: int | None = None) -> None:
        super().__init__()
        self.regions, self.ignore_label = regions, ignore_label

    def forward(self, outputs: Tensor | Sequence[Tensor], target: Tensor | Sequence[Tensor]) -> Tensor:
        """The loss of one output or of several, (B, C, H, W), and one target, or the same one for each.

        A target is (B, 1, H, W), labels, or (B, regions, H, W) and perhaps one channel more.
        """
        heads = [head.float() for head in ([outputs] if isinstance(outputs, Tensor) else outputs)]
        target = target if isinstance(target, Tensor) else target[0]
        valid = torch.ones_like(heads[0][:, :1])
        if self.regions:
            mask = target.float()
            if self.ignore_label is not None:
                mask, valid = mask[:, :-1], 1 - mask[:, -1:]
            return binary(heads, mask, valid)
        if self.ignore_label is not None:
            valid = torch.ne(target, self.ignore_label).float()
        labels = torch.where(valid.bool(), target, 0).long()
        if heads[0].shape[1] == 2:
            return binary([head[:, 1:] - head[:, :1] for head in heads], labels.float(), valid)
        return mutation(heads, labels, valid)


def mutation(heads: Sequence[Tensor], labels: Tensor, valid: Tensor) -> Tensor:
    """0.3 cross entropy + 0.7 Dice of the summed logits of every subset of heads that is not empty, summed.

    Args:
        heads: logits, (B, C, H, W).
        labels: (B, 1, H, W), integers.
        valid: (B, 1, H, W), 1 for what counts, 0 for what does not.
    """
    subsets = [chosen for n in range(1, len(heads) + 1) for chosen in combinations(heads, n)]
    truth = F.one_hot(labels[:, 0], heads[0].shape[1]).movedim(-1, 1).float()
    return torch.stack([_of_labels(torch.stack(chosen).sum(0), truth, valid) for chosen in subsets]).sum()


def _of_labels(logits: Tensor, truth: Tensor, valid: Tensor) -> Tensor:
    log_p = logits.log_softmax(1)
    cross_entropy = -(log_p * truth * valid).sum() / valid.sum().clamp(min=1)
    p = log_p.exp() * valid
    truth = truth * valid
    # of the whole batch, of all classes with the background
    shared, squares = (a.sum((0, 2, 3)) for a in (p * truth, p.square() + truth))
    dice = 1 - (2 * shared + _SMOOTH) / (squares + _SMOOTH)
    return 0.3 * cross_entropy + 0.7 * dice.mean()


def binary(heads: Sequence[Tensor], mask: Tensor, valid: Tensor) -> Tensor:
    """Weighted cross entropy + weighted IoU of each head and of the sum of all; near a border pixels weigh up to six.

    Args:
        heads: logits of a sigmoid, (B, R, H, W).
        mask: (B, R, H, W), 0 and 1.
        valid: (B, 1, H, W), 1 for what counts, 0 for what does not.
    """
    near = F.avg_pool2d(mask, _WINDOW, stride=1, padding=_WINDOW // 2)
    weight = (1 + 5 * (near - mask).abs()) * valid
    together = [torch.stack(list(heads)).sum(0)] if len(heads) > 1 else []
    return torch.stack([_of_mask(logits, mask, weight) for logits in [*heads, *together]]).sum()


def _of_mask(logits: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
    cross_entropy = F.binary_cross_entropy_with_logits(logits, mask, reduction="none")
    p = logits.sigmoid()
    total, wrong, shared, both = (
        (weight * a).sum((2, 3)) for a in (torch.ones_like(mask), cross_entropy, p * mask, p + mask)
    )
    iou = 1 - (shared + 1) / (both - shared + 1)
    return (wrong / total.clamp(min=1) + iou).mean()
