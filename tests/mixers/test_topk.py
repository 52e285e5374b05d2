"""Top-k attention against loops over queries, and how it chooses keys."""

import dataclasses

import pytest
import torch

from videofib.mixers import LayerSpec
from videofib.mixers.topk import TopKAttention

LAYER = LayerSpec(dim=12, num_heads=3, num_prefix_tokens=2, grid=(1, 3, 5))


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    return TopKAttention(layer, **options).double()


def by_loops(module, x):
    """Rows one by one: the k largest of a sorted list, then the prefix, then a softmax over those."""
    batch, tokens, dim = x.shape
    heads, prefix = module.num_heads, module.num_prefix_tokens
    q, k, v = module.qkv(x).view(batch, tokens, 3, heads, dim // heads).permute(2, 0, 3, 1, 4)
    out = torch.zeros_like(q)
    for b in range(batch):
        for h in range(heads):
            for i in range(tokens):
                row = k[b, h] @ q[b, h, i] / (dim // heads) ** 0.5
                largest = sorted(range(tokens), key=lambda j, row=row: -row[j].item())[: module.k]
                keys = range(tokens) if i < prefix else sorted({*largest, *range(prefix)})
                weights = row[list(keys)].exp()
                out[b, h, i] = (weights[:, None] * v[b, h, list(keys)]).sum(0) / weights.sum()
    return module.proj(out.transpose(1, 2).reshape(batch, tokens, dim))


@pytest.mark.parametrize(("k", "prefix"), [(1, 0), (3, 0), (3, 2), (4, 1), (99, 2)])
@pytest.mark.parametrize("most_numbers", [1 << 27, 2 * 3 * 17 * 2 * 4], ids=["one chunk", "chunks of four"])
def test_it_is_the_softmax_over_the_largest_logits_and_the_prefix(k, prefix, most_numbers):
    module = built(dataclasses.replace(LAYER, num_prefix_tokens=prefix), k=k)
    module.most_numbers = most_numbers
    x = torch.randn(2, prefix + 15, 12, dtype=torch.double, requires_grad=True)
    y, state = module(x, (1, 3, 5), "state")
    expected = by_loops(module, x)
    assert state == "state"
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y)
    parameters = [x, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((y * weight).sum(), parameters), torch.autograd.grad((expected * weight).sum(), parameters)
    )


def test_only_kept_logits_have_gradients():
    module = built(dataclasses.replace(LAYER, num_prefix_tokens=1), k=2)
    scores = torch.randn(1, 3, 16, 16, dtype=torch.double, requires_grad=True)
    torch.softmax(module.logits(scores, 0, (1, 3, 5)), -1).square().sum().backward()
    largest = torch.zeros(16, 16, dtype=torch.bool).expand(1, 3, 16, 16).scatter(-1, scores.topk(2).indices, True)
    largest[..., 0] = True
    assert torch.equal((scores.grad != 0)[..., 1:, :], largest[..., 1:, :])
    assert (scores.grad[..., 0, :] != 0).all()


def test_equal_logits_are_chosen_as_torch_chooses():
    module = built(dataclasses.replace(LAYER, num_prefix_tokens=0), k=2)
    scores = torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 1.0]).expand(1, 3, 6, 6)
    kept = module.logits(scores, 0, (1, 1, 6)).isfinite()
    assert torch.equal(kept, torch.zeros_like(kept).scatter(-1, scores.topk(2).indices, True))


def test_patches_have_no_order():
    module, x = built(k=3), torch.randn(1, 17, 12, dtype=torch.double)
    order = torch.cat([torch.arange(2), 2 + torch.randperm(15)])
    torch.testing.assert_close(module(x[:, order], (1, 3, 5))[0], module(x, (1, 3, 5))[0][:, order])


def test_no_keys_are_refused():
    with pytest.raises(ValueError, match="k=0; set k to"):
        built(k=0)
    with pytest.raises(ValueError, match="dim=12, num_heads=5"):
        built(dataclasses.replace(LAYER, num_heads=5))
