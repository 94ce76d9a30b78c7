"""The picture of the designs: what a stage gets is asked of the networks, and is what their formulas say."""

from itertools import pairwise

import pytest

from benchmarks.cost.designs import STAGES, designs, draw

ENCODER = [f"e{i}" for i in range(1, STAGES + 1)]
DECODER = [f"d{i}" for i in range(1, STAGES)]
DOWN_AND_UP = {*pairwise(ENCODER), (ENCODER[-1], "d1"), *pairwise(DECODER)}
SKIPS = set(zip(ENCODER[-2::-1], DECODER))
OF_DECODER = {(source, target) for i, target in enumerate(DECODER) for source in [*ENCODER, *DECODER[:i]]}
OF_ENCODER = {(source, target) for i, target in enumerate(ENCODER) for source in ENCODER[:i]}


@pytest.fixture(scope="module")
def found():
    return {design.title: design.arrows for design in designs()}


@pytest.mark.parametrize(
    ("trainer", "expected"),
    [
        ("nnUNetTrainer", DOWN_AND_UP | SKIPS),
        ("nnUNetTrainerNoSkip", DOWN_AND_UP),
        ("nnUNetTrainerXAttnRes", OF_DECODER | OF_ENCODER),
        ("nnUNetTrainerXAttnResReplace", OF_DECODER | OF_ENCODER),
        ("nnUNetTrainerXAttnResDecoderReads", OF_DECODER | DOWN_AND_UP),
        # the transformer hands every stage something of all four skips
        ("nnUNetTrainerUCTransNet", DOWN_AND_UP | {(s, t) for s in ENCODER[:4] for t in DECODER}),
        (
            "nnUNetTrainerUNet3Plus",
            # of the encoder what is not coarser than the stage, and the bottleneck; of the decoder all that is coarser
            {(s, t) for s, t in OF_DECODER if s[0] == "d" or int(s[1:]) <= STAGES - int(t[1:]) or s == ENCODER[-1]}
            | DOWN_AND_UP,
        ),
    ],
)
def test_what_a_stage_gets(found, trainer, expected):
    assert found[trainer] == expected


def test_the_picture_has_all_of_them(tmp_path):
    draw(designs()[:2], tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 5000
