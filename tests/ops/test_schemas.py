"""The operators' schemas are written out, because torch cannot read ``list[Tensor]`` before 2.7."""

import pytest
import torch

from nnunet_xattnres import ops

OPERATORS = [
    *(ops.operator._read, ops.operator._read_backward),
    *(ops.resize._resize, ops.resize._resize_backward),
]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda operator: operator._name)
def test_a_schema_is_what_the_annotations_say(operator):
    function = operator._init_fn
    try:
        expected = torch.library.infer_schema(function, mutates_args=())
    except (AttributeError, ValueError) as error:
        pytest.skip(f"torch {torch.__version__} does not infer it: {error}")
    assert str(operator._opoverload._schema) == f"{operator._qualname}{expected}"
