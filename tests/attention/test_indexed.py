"""What graphs of torch.export hold of ``gather``: equal to the reference, small, and of torch's own operations."""

import pytest
import torch
from torch.export import Dim

from tests.attention.test_sparse_attention import SUPPORTS, TOLERANCE, qkv
from videofib.attention import SelfAttention, Support, sparse_attention
from videofib.attention.backends import MASKINGS
from videofib.attention.kernels import indexed, reference

SPARSE = [name for name, support in SUPPORTS.items() if not support.is_dense]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("name", [*SPARSE, "dense"])
def test_it_is_the_reference(name, masking, dtype):
    support = SUPPORTS[name]
    inputs = qkv(support, dtype)
    found, expected = (kernel.attend(*inputs, support, masking, 0.3, 0.0) for kernel in (indexed, reference))
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)
    for a, b in zip(*(torch.autograd.grad(out.square().sum(), inputs) for out in (found, expected)), strict=True):
        torch.testing.assert_close(a, b, atol=10 * tolerance, rtol=10 * tolerance)


@pytest.mark.parametrize("masking", MASKINGS)
def test_extreme_logits_stay_finite(masking):
    support = Support.fibottention(3, 40)
    inputs = [x.detach().mul(100) for x in qkv(support, torch.float32)]  # logits to about 1e5
    found = indexed.attend(*inputs, support, masking, 1.0, 0.0)
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found, reference.attend(*inputs, support, masking, 1.0, 0.0), rtol=1e-4, atol=1e-2)


def test_half_precision_is_computed_in_single():
    support = SUPPORTS["modified"]
    half = [x.detach().bfloat16() for x in qkv(support, torch.float64)]
    found = indexed.attend(*half, support, "exclude", 0.3, 0.0)
    assert found.dtype == torch.bfloat16
    exact = reference.attend(*(x.double() for x in half), support, "exclude", 0.3, 0.0)
    torch.testing.assert_close(found.double(), exact, atol=2**-8, rtol=2**-8)


class Layer(torch.nn.Module):
    def __init__(self, support, masking):
        super().__init__()
        self.support, self.masking = support, masking

    def forward(self, q, k, v):
        return sparse_attention(q, k, v, self.support, masking=self.masking, backend="gather")


@pytest.mark.parametrize("masking", MASKINGS)
def test_a_graph_holds_few_of_torchs_own_operations_and_nothing_square(masking):
    support = Support.fibottention(12, 600, num_prefix_tokens=1)
    inputs = [x.detach() for x in qkv(support, torch.float32, dim=4)]
    shapes = {name: {0: Dim("batch", min=1)} for name in ("q", "k", "v")}
    program = torch.export.export(Layer(support, masking), tuple(inputs), dynamic_shapes=shapes, strict=False)
    called = [node for node in program.graph.nodes if node.op == "call_function"]
    assert not [node for node in called if "videofib" in str(node.target)]
    segments = sum(len(support.segments(head)) for head in range(12))
    assert len(called) < 2 * segments  # ``gather``, head by head and segment by segment, takes about 12 times these
    for node in called:
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            assert sum(size == 600 or size == 601 for size in value.shape[1:]) < 2
    for batch in (1, 2, 5):
        given = [x.detach() for x in qkv(support, torch.float32, dim=4, batch=batch)]
        found, expected = program.module()(*given), sparse_attention(*given, support, masking=masking)
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_outside_of_exports_gather_is_as_it_was(monkeypatch):
    monkeypatch.setattr(indexed, "_attend_patches", None)  # fails if called
    support = Support.fibottention(2, 30)
    SelfAttention(8, 2, support, backend="gather")(torch.zeros(1, 31, 8)).sum().backward()
