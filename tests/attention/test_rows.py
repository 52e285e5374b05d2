"""``weighted_rows`` against the dense matrix of weights, on awkward sizes."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.attention.test_sparse_attention import SUPPORTS
from videofib.attention import SelfAttention, Support, sparse_attention, weighted_rows
from videofib.attention.backends import MASKINGS
from videofib.attention.kernels import dense


def drawn(support, batch=2, dim=8, dtype=torch.float64):
    torch.manual_seed(0)
    total = support.num_prefix_tokens + support.num_tokens
    q, k = torch.randn(2, batch, support.num_heads, total, dim, dtype=dtype)
    return torch.rand(batch, total, dtype=dtype), q, k


def matrix(q, k, support, masking):
    """(B, H, P+N, P+N): the values are the unit vectors, so that the output is the matrix of weights."""
    unit = torch.eye(q.shape[2], dtype=q.dtype).expand(*q.shape[:2], -1, -1)
    padded = [torch.nn.functional.pad(x, (0, q.shape[2] - q.shape[3])) for x in (q, k)]
    return sparse_attention(*padded, unit, support, masking=masking, scale=q.shape[3] ** -0.5, backend="reference")


@pytest.mark.parametrize("masking", MASKINGS)
@pytest.mark.parametrize("support", SUPPORTS.values(), ids=SUPPORTS)
def test_equal_to_a_product_with_the_matrix(support, masking):
    weights, q, k = drawn(support, dim=1 if support.num_tokens < 3 else 5)
    found = weighted_rows(weights, q, k, support, masking=masking)
    expected = torch.einsum("bq,bhqk->bhk", weights, matrix(q, k, support, masking))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(found.sum(-1), weights.sum(-1)[:, None].expand_as(found[..., 0]), rtol=0, atol=1e-12)


def test_dense_rows_come_some_at_a_time(monkeypatch):
    support = Support.dense(3, 29, num_prefix_tokens=2)
    weights, q, k = drawn(support)
    at_once = weighted_rows(weights, q, k, support)
    monkeypatch.setattr(dense, "_MOST_LOGITS", 7 * 2 * 3 * 31)
    torch.testing.assert_close(weighted_rows(weights, q, k, support), at_once, rtol=0, atol=1e-12)


def test_sixteen_bits_are_computed_in_32():
    support = SUPPORTS["five prefix tokens"]
    weights, q, k = drawn(support, dtype=torch.bfloat16)
    found = weighted_rows(weights, q, k, support)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, weighted_rows(weights.float(), q.float(), k.float(), support))


def test_no_gradient_and_no_tensor_of_all_pairs():
    support = Support.fibottention(4, 3000)
    weights, q, k = drawn(support, batch=1, dtype=torch.float32)
    sizes = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, torch.Tensor) else 0)
            return out

    with Sizes():
        found = weighted_rows(weights, q.requires_grad_(), k, support)
    assert not found.requires_grad
    assert max(sizes) < 3001 * 64


def test_a_layer_gives_the_rows_of_its_own_attention():
    torch.manual_seed(0)
    support = SUPPORTS["modified"]
    layer = SelfAttention(16, 4, support, qk_norm=1e-6, masking="zero_logit", backend="reference").double()
    x = torch.randn(2, 62, 16, dtype=torch.float64)
    weights = torch.rand(2, 62, dtype=torch.float64)
    q, k, _ = layer.qkv(x).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    expected = torch.einsum("bq,bhqk->bhk", weights, matrix(layer.q_norm(q), layer.k_norm(k), support, "zero_logit"))
    torch.testing.assert_close(layer.weighted_rows(x, weights), expected, rtol=0, atol=1e-12)


def test_what_does_not_fit_is_refused():
    support = SUPPORTS["modified"]
    weights, q, k = drawn(support)
    with pytest.raises(ValueError, match=r"4 heads and 1 \+ 61 tokens, got weights \(2, 61\)"):
        weighted_rows(weights[:, 1:], q, k, support)
    with pytest.raises(ValueError, match="unknown masking 'zero'; known: exclude, zero_logit"):
        weighted_rows(weights, q, k, support, masking="zero")
