"""The reconstruction of LiSA against its dense sums over all pairs of tokens."""

import dataclasses
import itertools

import pytest
import torch
from einops import rearrange

from videofib.mixers import LayerSpec
from videofib.mixers.lisa import ReconstructedLisa, correlations

LAYER = LayerSpec(dim=6, num_heads=2, num_prefix_tokens=1, grid=(2, 3, 4))


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    return ReconstructedLisa(layer, **options).double()


def between(table, grid):
    """(H, E, 2t-1, 2h-1, 2w-1) -> (H, E, N, N) for query i and key j, positions in the order t h w."""
    positions = list(itertools.product(*map(range, grid)))
    rows = [[tuple(b - a + n - 1 for a, b, n in zip(i, j, grid, strict=True)) for j in positions] for i in positions]
    return torch.stack([torch.stack([table[(..., *entry)] for entry in row], -1) for row in rows], -2)


def dense(module, x, grid):
    """(B, N, H·D) in the order t h w -> the same, with kernels of N x N."""
    q, k, v = rearrange(module.qkv(x), "b n (three h d) -> three b h n d", three=3, h=module.num_heads)
    q, k = (y / y.norm(dim=-1, keepdim=True) for y in (q, k))
    relations = torch.einsum("bhid,bhjd,heij->bhei", q, k, between(module.rpe_key, grid))
    kernel = torch.einsum("bhei,heij->bhij", relations, between(module.rpe_value, grid))
    return module.proj(rearrange(kernel @ v, "b h n d -> b n (h d)"))


@pytest.mark.parametrize("order", ["h w t", "t h w"])
@pytest.mark.parametrize("grid", [(2, 3, 4), (1, 3, 5), (5, 1, 1)], ids=["joint", "space", "time"])
def test_correlations_equal_the_sums_over_all_pairs(order, grid):
    module = built(dataclasses.replace(LAYER, grid=grid, order=order), patterns=3)
    (t, h, w), names = grid, f"b ({order}) c"
    x = torch.randn(2, 1 + t * h * w, 6, dtype=torch.double, requires_grad=True)
    y, state = module(x, grid, "state")
    ordered = rearrange(x[:, 1:], f"{names} -> b (t h w) c", t=t, h=h, w=w)
    expected = rearrange(dense(module, ordered, grid), f"b (t h w) c -> {names}", t=t, h=h, w=w)
    assert state == "state"
    assert not y[:, 0].any()
    torch.testing.assert_close(y[:, 1:], expected)
    weight = torch.randn_like(expected)
    parameters = [x, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((y[:, 1:] * weight).sum(), parameters),
        torch.autograd.grad((expected * weight).sum(), parameters),
    )


def test_no_difference_wraps_round_the_end():
    maps, table = torch.zeros(1, 1, 1, 1, 1, 5), torch.zeros(1, 1, 1, 1, 9)
    maps[..., 4], table[..., 3] = 1, 1  # the last position, and the difference of 3 - (5 - 1) = -1
    (y,) = correlations(maps, table)
    torch.testing.assert_close(y.flatten(), torch.zeros(5), atol=1e-6, rtol=0)  # on a ring the first would see it
    table[..., 3], table[..., 5] = 0, 1
    (y,) = correlations(maps, table)
    torch.testing.assert_close(y.flatten(), torch.tensor([0.0, 0, 0, 1, 0]), atol=1e-6, rtol=0)


def test_outputs_do_not_grow_with_tokens_and_patterns():
    sizes = []
    for grid, patterns in [((1, 4, 4), 1), ((4, 12, 12), 8)]:
        module = built(dataclasses.replace(LAYER, num_prefix_tokens=0, grid=grid), patterns=patterns)
        v = torch.randn(1, 2, 3, *grid, dtype=torch.double)
        sizes.append(module.mix(torch.randn_like(v), torch.randn_like(v), v).std())
    assert 0.2 < sizes[0] / sizes[1] < 5


def test_transforms_have_32_bits_under_autocast_and_with_weights_of_16():
    module, x = built().float(), torch.randn(1, 25, 6)
    exact = module(x, (2, 3, 4), None)[0]
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module(x, (2, 3, 4), None)
    z, _ = module.bfloat16()(x.bfloat16(), (2, 3, 4), None)
    for found in (y, z):
        assert found.dtype == torch.bfloat16
        torch.testing.assert_close(found.float(), exact, atol=0.05, rtol=0.05)
    maps = torch.zeros(1, 2, 3, 2, 3, 4, dtype=torch.bfloat16)
    assert module.mix(maps, maps, maps).dtype == torch.float32


def test_what_it_cannot_do_is_refused():
    with pytest.raises(ValueError, match="patterns=0; set"):
        built(patterns=0)
    with pytest.raises(ValueError, match="dim=6, num_heads=4"):
        built(dataclasses.replace(LAYER, num_heads=4))
    with pytest.raises(ValueError, match=r"\(2, 3, 4\), got \(2, 4, 3\)"):
        built()(torch.zeros(1, 25, 6, dtype=torch.double), (2, 4, 3), None)


def test_tables_of_positions_do_not_decay():
    module = built()
    assert module.no_weight_decay() == {"rpe_key", "rpe_value"} <= dict(module.named_parameters()).keys()
