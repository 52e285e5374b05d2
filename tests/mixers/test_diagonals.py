"""Mixers along diagonals, and that they cost what Fibottention costs."""

import pickle

import pytest
import torch

from videofib.attention import Support
from videofib.mixers import MIXERS, LayerSpec

LAYER = LayerSpec(dim=24, num_heads=3, num_prefix_tokens=1, grid=(4, 5, 6), backend="gather")
OPTIONS = {
    "window": dict(radius=2, dilation=2, include_self=False),
    "dilated": dict(radius=2, dilations=(1, 3, 4)),
    "strided": dict(stride=7, radius=2, split_heads=True),
    "shared": dict(offsets=(0, 4, 30)),
}


@pytest.mark.parametrize("name", OPTIONS)
def test_mixer_is_masked_attention(name):
    torch.manual_seed(0)
    mixer = MIXERS[name].build(LAYER, **OPTIONS[name]).double()
    x = torch.randn(2, 121, 24, dtype=torch.float64, requires_grad=True)
    q, k, v = mixer.qkv(x).view(2, 121, 3, 3, 8).permute(2, 0, 3, 1, 4)
    logits = (q @ k.mT / 8**0.5).masked_fill(~mixer.support_for(120).to_mask(), float("-inf"))
    expected = mixer.proj((logits.softmax(-1) @ v).transpose(1, 2).flatten(2))
    found, _ = mixer(x, LAYER.grid, None)
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(found)
    torch.testing.assert_close(torch.autograd.grad(found, x, probe), torch.autograd.grad(expected, x, probe))


@pytest.mark.parametrize("name", ["window", "dilated", "strided"])
@pytest.mark.parametrize("grid", [(8, 8, 8), (1, 14, 14), (8, 1, 1)])
def test_by_default_the_density_is_that_of_fibottention(name, grid):
    num_tokens = grid[0] * grid[1] * grid[2]
    layer = LayerSpec(dim=24, num_heads=3, num_prefix_tokens=1, grid=grid)
    found, target = (
        MIXERS[name].build(layer).support_for(num_tokens).density(),
        Support.fibottention(3, num_tokens).density(),
    )
    step = 2 / num_tokens  # what one offset more changes
    assert abs(found - target) <= step if num_tokens > 8 else found > 0


def test_one_dilation_for_each_head():
    with pytest.raises(ValueError, match="3 heads"):
        MIXERS["dilated"].build(LAYER, dilations=(1, 2))


@pytest.mark.parametrize("name", OPTIONS)
def test_pickled_layers_are_the_same(name):
    mixer = MIXERS[name].build(LAYER)
    assert pickle.loads(pickle.dumps(mixer)).support_for(77) == mixer.support_for(77)
