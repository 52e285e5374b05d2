"""Attention over rows of which each head has its own: both implementations equal a masked softmax."""

from itertools import pairwise

import pytest
import torch

from videofib.attention import Support
from videofib.attention.context.blockwise import OnlineSoftmax, add_gradients
from videofib.attention.context.halo_kernels import has_compiled, ragged_kernel
from videofib.attention.context.plan import halo_plan
from videofib.attention.kernels.layout import rows_like
from videofib.attention.kernels.ragged import Ragged
from videofib.attention.support import Segment

BACKENDS = ["gather", pytest.param("cpu", marks=pytest.mark.skipif(not has_compiled("cpu"), reason="needs numba"))]
PAIRS = {
    "by hand": Ragged(3, 1, (0, 2, 7), ((Segment(0, 1, 1),), (Segment(0, 1, 3), Segment(1, 4, 1)))),
    "a slice in the middle": halo_plan(Support.fibottention(3, 61), 3, 1, torch.device("cpu")).pairs,
    "no prefix": halo_plan(Support.fibottention(5, 40, num_prefix_tokens=0), 4, 3, torch.device("cpu")).pairs,
    "one query": halo_plan(Support.fibottention(4, 7, num_prefix_tokens=0), 4, 3, torch.device("cpu")).pairs,
    "more keys than queries": halo_plan(Support.strided(2, 50, stride=3), 8, 2, torch.device("cpu")).pairs,
}


def reference(q, k, v, pairs, scale):
    """By the mask of each head: output and log of the denominators."""
    outs, logs = [], []
    for head, segments in enumerate(pairs.segments):
        rows = slice(pairs.edges[head], pairs.edges[head + 1])
        mask = torch.zeros(pairs.num_queries, rows.stop - rows.start, dtype=torch.bool)
        mask[:, : pairs.num_prefix_tokens] = True
        for s in segments:
            for i in range(s.length):
                mask[s.query + i, s.key + i] = True
        logits = (q[:, head] @ k[:, rows].mT * scale).masked_fill(~mask, float("-inf"))
        outs.append(logits.softmax(-1) @ v[:, rows])
        logs.append(logits.logsumexp(-1))
    return torch.stack(outs, 1), torch.stack(logs, 1)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_output_and_gradients_are_those_of_the_reference(backend, name, dtype):
    pairs, kernel = PAIRS[name], ragged_kernel(backend, "cpu")
    generator = torch.Generator().manual_seed(0)
    sizes = (2, len(pairs.segments), pairs.num_queries, 9), (2, pairs.edges[-1], 9), (2, pairs.edges[-1], 9)
    exact = [torch.randn(s, dtype=torch.float64, generator=generator).to(dtype).double() for s in sizes]
    q, k, v = (x.clone().requires_grad_() for x in exact)
    expected, expected_lse = reference(q, k, v, pairs, 0.7)
    probe = torch.randn(expected.shape, dtype=torch.float64, generator=generator).to(dtype).double()
    expected_gradients = torch.autograd.grad((expected * probe).sum(), (q, k, v))

    tolerance = {torch.float64: 1e-13, torch.float32: 1e-5, torch.bfloat16: 3e-2}[dtype]
    q, k, v = (x.to(dtype) for x in exact)
    q = rows_like(q).copy_(q)  # heads beside each other, as layers have them
    out, lse = kernel.attend(q, k, v, pairs, 0.7)
    gradients = kernel.gradients(probe.to(dtype), q, k, v, out, lse, pairs, 0.7)
    for found, wanted in zip((out, *gradients), (expected, *expected_gradients), strict=True):
        assert found.dtype == dtype
        torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(lse.double(), expected_lse, atol=tolerance, rtol=tolerance)


def test_backends_that_serve():
    plain, fastest = (ragged_kernel(name, "cuda") for name in ("gather", "auto"))
    assert plain == fastest == ragged_kernel("reference", "cpu")
    with pytest.raises(ValueError, match="backend 'cpu' computes no halo of cuda tensors"):
        ragged_kernel("cpu", "cuda")


def test_blocks_add_up_to_attention(monkeypatch):
    """In chunks of few queries and keys, with logits that would overflow without their maximum."""
    monkeypatch.setattr("videofib.attention.context.blockwise._KEYS", 4)
    monkeypatch.setattr("videofib.attention.context.blockwise._MOST_LOGITS", 2 * 3 * 4 * 5)
    generator = torch.Generator().manual_seed(0)
    q, k, v, d_out = (torch.randn(2, 3, 13, 6, dtype=torch.float64, generator=generator) for _ in range(4))
    q, k, v = (x.requires_grad_() for x in (q * 40, k * 40, v))
    expected = torch.softmax(q @ k.mT * 0.5, -1) @ v
    expected_gradients = torch.autograd.grad(expected, (q, k, v), d_out)

    q, k, v = (x.detach() for x in (q, k, v))
    softmax, edges = OnlineSoftmax(q, 0.5), (0, 1, 7, 13)
    blocks = [slice(a, b) for a, b in pairwise(edges)]
    for block in blocks:
        softmax.add(k[:, :, block], v[:, :, block])
    out, lse = softmax.result()
    torch.testing.assert_close(out, expected.detach(), atol=1e-12, rtol=1e-12)
    dq, dkv = torch.zeros_like(q), torch.zeros(2, *k.shape, dtype=k.dtype)
    for block in blocks:
        delta = (d_out * out).sum(-1)
        add_gradients(d_out, q, k[:, :, block], v[:, :, block], lse, delta, 0.5, dq, dkv[:, :, :, block])
    for found, wanted in zip((dq, *dkv), expected_gradients, strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-11, rtol=1e-11)
