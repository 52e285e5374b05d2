"""Shunted attention against loops over kernels and queries, and its halves of heads."""

import dataclasses

import pytest
import torch
from einops import rearrange

from videofib.mixers import LayerSpec
from videofib.mixers.shunted import ShuntedAttention
from videofib.models import TimeSformer

LAYER = LayerSpec(dim=8, num_heads=4, num_prefix_tokens=2, grid=(3, 5, 7))


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    module = ShuntedAttention(layer, **options).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return module


def tokens(layer=LAYER, batch=2):
    t, h, w = layer.grid
    return torch.randn(batch, layer.num_prefix_tokens + t * h * w, layer.dim, dtype=torch.double, requires_grad=True)


def strided(patches, weight, bias, size, frames):
    """Kernel by kernel: (t, h, w, D) -> (t', h', w', D'); the frames that a kernel covers are stacked in front of D."""
    t, h, w, _ = patches.shape
    out = []
    for i in range(t // frames):
        for j in range(h // size):
            for k in range(w // size):
                covered = patches[i * frames : (i + 1) * frames, j * size : (j + 1) * size, k * size : (k + 1) * size]
                stacked = rearrange(covered, "f y x d -> (f d) y x")
                out.append((weight * stacked).sum((1, 2, 3)) + bias)
    return torch.stack(out).view(t // frames, h // size, w // size, -1)


def depthwise(maps, conv):
    """Neighbour by neighbour, zeros around each frame: (t, h, w, D) -> the same."""
    _, h, w, _ = maps.shape
    rows = []
    for y in range(h):
        for x in range(w):
            total = conv.bias.expand(maps.shape[0], -1)
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    if 0 <= y + dy < h and 0 <= x + dx < w:
                        total = total + conv.weight[:, 0, dy + 1, dx + 1] * maps[:, y + dy, x + dx]
            rows.append(total)
    return torch.stack(rows, 1).view(maps.shape)


def attention(q, k, v, heads):
    """Head by head: (S, D), (n, D), (n, D) -> (S, D)."""
    out = []
    for q_h, k_h, v_h in zip(q.chunk(heads, -1), k.chunk(heads, -1), v.chunk(heads, -1), strict=True):
        out.append(torch.softmax(q_h @ k_h.T / q_h.shape[1] ** 0.5, -1) @ v_h)
    return torch.cat(out, -1)


def by_loops(module, x, layer):
    prefix, dim = layer.num_prefix_tokens, layer.dim
    axes = dict(zip("thw", layer.grid, strict=True))
    outputs = []
    for sample in x:
        q, first = module.q(sample), sample[:prefix]
        patches = rearrange(sample[prefix:], f"({layer.order}) d -> t h w d", **axes)
        if module.reduction == 1:
            k, v = module.kv(sample).split(dim, -1)
            maps = rearrange(v[prefix:], f"({layer.order}) d -> t h w d", **axes)
            local = rearrange(depthwise(maps, module.local_conv), f"t h w d -> ({layer.order}) d")
            y = attention(q, k, v, layer.num_heads)
            outputs.append(torch.cat([y[:prefix], y[prefix:] + local]))
            continue
        halves = []
        for scale, size in ((1, module.reduction), (2, module.reduction // 2)):
            conv, norm = getattr(module, f"sr{scale}"), getattr(module, f"norm{scale}")
            maps = strided(patches, conv.weight, conv.bias, size, module.time_reduction)
            maps = torch.nn.functional.gelu(norm(maps))
            kv = getattr(module, f"kv{scale}")
            k, v = kv(maps).split(dim // 2, -1)
            v = v + depthwise(v, getattr(module, f"local_conv{scale}"))
            first_k, first_v = kv(first).split(dim // 2, -1)
            half = q[:, : dim // 2] if scale == 1 else q[:, dim // 2 :]
            k, v = torch.cat([first_k, k.flatten(0, 2)]), torch.cat([first_v, v.flatten(0, 2)])
            halves.append(attention(half, k, v, layer.num_heads // 2))
        outputs.append(torch.cat(halves, -1))
    return module.proj(torch.stack(outputs))


@pytest.mark.parametrize("order", ["h w t", "t h w"])
@pytest.mark.parametrize(
    ("reduction", "time_reduction", "prefix", "bias"),
    [(1, 1, 2, True), (1, 1, 0, False), (2, 1, 1, False), (2, 2, 2, True), (4, 3, 0, True), (4, 1, 2, True)],
)
def test_it_is_attention_to_keys_of_two_scales(reduction, time_reduction, prefix, bias, order):
    layer = dataclasses.replace(LAYER, num_prefix_tokens=prefix, qkv_bias=bias, order=order)
    module, x = built(layer, reduction=reduction, time_reduction=time_reduction), tokens(layer)
    y, state = module(x, layer.grid, "state")
    expected = by_loops(module, x, layer)
    assert state == "state"
    torch.testing.assert_close(y, expected)
    weight, leaves = torch.randn_like(y), [x, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((y * weight).sum(), leaves), torch.autograd.grad((expected * weight).sum(), leaves)
    )


@pytest.mark.parametrize("options", [dict(reduction=1), dict(reduction=2, time_reduction=3)])
def test_the_order_of_tokens_only_permutes_the_output(options):
    one, other = (built(dataclasses.replace(LAYER, order=order), **options) for order in ("h w t", "t h w"))
    x = tokens()

    def reordered(x):
        patches = rearrange(x[:, 2:], "b (h w t) d -> b (t h w) d", t=3, h=5, w=7)
        return torch.cat([x[:, :2], patches], 1)

    torch.testing.assert_close(other(reordered(x), LAYER.grid, None)[0], reordered(one(x, LAYER.grid, None)[0]))


def test_half_of_the_heads_see_coarse_keys_only():
    module, x = built(reduction=4), tokens()
    module.proj = torch.nn.Identity()
    y = module(x, LAYER.grid, None)[0]
    below = (2 + torch.arange(105).view(5, 7, 3)[4]).flatten()  # row 4 fills no kernel of 4 x 4, nor of 2 x 2
    between = (2 + torch.arange(105).view(5, 7, 3)[:4, 4:6]).flatten()  # fills fine kernels only
    query = torch.tensor([0, 2])  # a prefix token, and a patch that is not among these keys
    coarse, fine = (
        torch.autograd.grad(y[:, query, half].sum(), x, retain_graph=True)[0] for half in (slice(0, 4), slice(4, 8))
    )
    assert not coarse[:, below].any()
    assert not fine[:, below].any()
    assert not coarse[:, between].any()
    assert fine[:, between].all()
    assert coarse[:, 1].all()
    assert fine[:, 1].all()


def test_initial_convolutions_are_normal_by_their_fan_out():
    module = ShuntedAttention(dataclasses.replace(LAYER, dim=64), reduction=2)
    assert float(module.sr1.weight.detach().std() / (2 / (4 * 64)) ** 0.5) == pytest.approx(1, abs=0.05)
    assert float(module.local_conv1.weight.detach().std() / (2 / 9) ** 0.5) == pytest.approx(1, abs=0.15)
    assert not module.sr1.bias.any()
    assert not module.local_conv2.bias.any()


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("attention_type", ["divided_space_time", "joint_space_time", "space_only"])
def test_models_train_all_its_parameters(attention_type, recompute):
    model = TimeSformer(
        img_size=(16, 24), patch_size=4, num_classes=3, num_frames=3, embed_dim=8, depth=2, num_heads=2,
        attention_type=attention_type, space_attention="shunted", joint_attention="shunted", qk_norm=True,
        mixer_options={"shunted": {"reduction": 4}}, gradient_checkpointing=recompute,
    )  # fmt: skip
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(1, 3, 3, 24, 16)).float().square().sum()  # another grid than it is built for
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("layer", "options", "message"),
    [
        (dict(num_heads=1), {}, "num_heads=1; set an even num_heads"),
        (dict(dim=10), {}, "dim=10, num_heads=4"),
        ({}, dict(reduction=3), "reduction=3"),
        ({}, dict(reduction=0), "reduction=0"),
        ({}, dict(time_reduction=0), "time_reduction=0"),
        ({}, dict(reduction=1, time_reduction=2), "reduction=1, time_reduction=2"),
        ({}, dict(reduction=6), r"no keys are left of \(t, h, w\) = \(3, 5, 7\)"),
        ({}, dict(time_reduction=4), "no keys are left"),
        (dict(grid=(3, 1, 1)), {}, "reduction=1 for attention over time"),
    ],
)
def test_what_it_cannot_do_is_refused(layer, options, message):
    with pytest.raises(ValueError, match=message):
        ShuntedAttention(dataclasses.replace(LAYER, **layer), **options)


def test_a_grid_without_keys_is_refused():
    with pytest.raises(ValueError, match="no keys are left"):
        built(reduction=4)(torch.zeros(1, 2 + 9, 8, dtype=torch.double), (1, 3, 3), None)
