"""Attention with relative positions against loops over pairs of tokens."""

import dataclasses

import pytest
import torch
from einops import rearrange

from videofib.mixers import LayerSpec
from videofib.mixers.lit import RelativePositionAttention
from videofib.models import TimeSformer

LAYER = LayerSpec(dim=6, num_heads=3, num_prefix_tokens=2, grid=(3, 2, 5))


def built(layer=LAYER):
    torch.manual_seed(0)
    module = RelativePositionAttention(layer).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def positions(layer):
    """(t, y, x) of each patch, in the order of tokens."""
    t, h, w = layer.grid
    if layer.order == "h w t":
        return [(i, y, x) for y in range(h) for x in range(w) for i in range(t)]
    return [(i, y, x) for i in range(t) for y in range(h) for x in range(w)]


def by_loops(module, x, layer):
    (t, h, w), prefix, heads = layer.grid, layer.num_prefix_tokens, layer.num_heads
    table = module.relative_position_bias_table.view(2 * t - 1, 2 * h - 1, 2 * w - 1, heads)
    q, k, v = rearrange(module.qkv(x), "b n (three h d) -> three h b n d", three=3, h=heads)
    place, out = positions(layer), []
    for head in range(heads):
        logits = q[head] @ k[head].transpose(1, 2) / q.shape[-1] ** 0.5
        bias = torch.zeros(x.shape[1], x.shape[1], dtype=x.dtype)
        for i, (ti, yi, xi) in enumerate(place):
            for j, (tj, yj, xj) in enumerate(place):
                bias[prefix + i, prefix + j] = table[ti - tj + t - 1, yi - yj + h - 1, xi - xj + w - 1, head]
        out.append(torch.softmax(logits + bias, -1) @ v[head])
    return module.proj(torch.cat(out, -1))


@pytest.mark.parametrize("order", ["h w t", "t h w"])
@pytest.mark.parametrize(
    ("grid", "prefix", "bias"),
    [((3, 2, 5), 2, True), ((1, 3, 4), 1, False), ((4, 1, 1), 0, True), ((1, 1, 1), 0, True)],
)
def test_each_offset_of_patches_has_a_bias(grid, prefix, bias, order):
    layer = dataclasses.replace(LAYER, grid=grid, num_prefix_tokens=prefix, qkv_bias=bias, order=order)
    module = built(layer)
    n = prefix + grid[0] * grid[1] * grid[2]
    x = torch.randn(2, n, 6, dtype=torch.double, requires_grad=True)
    y, state = module(x, grid, "state")
    expected = by_loops(module, x, layer)
    assert state == "state"
    torch.testing.assert_close(y, expected)
    weight, leaves = torch.randn_like(y), [x, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((y * weight).sum(), leaves), torch.autograd.grad((expected * weight).sum(), leaves)
    )


def test_without_biases_it_is_dense_attention():
    module, x = built(), torch.randn(2, 32, 6, dtype=torch.double)
    torch.nn.init.zeros_(module.relative_position_bias_table)
    torch.testing.assert_close(module(x, LAYER.grid)[0], module.attend(x))


def test_models_train_it_in_half_precision_and_the_table_does_not_decay():
    model = TimeSformer(
        img_size=16, patch_size=8, num_classes=3, num_frames=3, embed_dim=8, depth=2, num_heads=2, qk_norm=True,
        space_attention="lit", time_attention="lit", gradient_checkpointing=True,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model.train()(torch.randn(2, 3, 3, 16, 16)).float().square().sum()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    tables = {name for name, p in model.named_parameters() if name.endswith("relative_position_bias_table")}
    assert len(tables) == 4
    assert tables <= model.no_weight_decay()
    model.reset_parameters()
    assert model.blocks[0].attn.relative_position_bias_table.abs().max() < 0.1


def test_attention_weights_are_dropped_in_training_only():
    layer = dataclasses.replace(LAYER, attn_drop=1.0, proj_drop=0.0)
    module, x = built(layer), torch.randn(2, 32, 6, dtype=torch.double)
    assert torch.equal(module.train()(x, LAYER.grid)[0], module.proj.bias.expand_as(x))
    torch.testing.assert_close(module.eval()(x, LAYER.grid)[0], by_loops(module, x, layer))


def test_other_grids_and_uneven_heads_are_refused():
    with pytest.raises(ValueError, match=r"for \(t, h, w\) = \(3, 2, 5\) tokens, got \(3, 5, 2\)"):
        built()(torch.zeros(1, 32, 6, dtype=torch.double), (3, 5, 2))
    with pytest.raises(ValueError, match="dim=6, num_heads=4"):
        built(dataclasses.replace(LAYER, num_heads=4))
