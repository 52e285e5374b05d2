"""Relational self-attention against loops over queries and their neighbours."""

import dataclasses
import itertools

import pytest
import torch
from einops import rearrange

from videofib.mixers import LayerSpec
from videofib.mixers.rsa import RelationalSelfAttention

LAYER = LayerSpec(dim=6, num_heads=2, num_prefix_tokens=1, grid=(2, 3, 4))
OPTIONS = dict(patterns=2, kernel=(3, 3, 5), key_dim=2)


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    module = RelationalSelfAttention(layer, **{**OPTIONS, **options}).double()
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter)
    return module


def by_loops(module, clips):
    """The equations of the docstring, for every query, value and pattern; (B, H·V, t, h, w) -> the same."""
    heads, key_dim, value_dim = module.num_heads, module.key_dim, module.value_dim
    projected = torch.einsum("oc,bcthw->bothw", module.projection.weight[..., 0, 0, 0], clips)
    q, k, v = projected.split([heads * key_dim, key_dim, value_dim], dim=1)
    q = torch.stack([x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt() for x in q.split(key_dim, dim=1)], dim=1)
    k, v = (x / (x.square().sum(1, keepdim=True) + 1e-6).sqrt() for x in (k, v))
    h1, middle = module.H1.weight.unflatten(0, (key_dim, -1)), [size // 2 for size in module.G.kernel_size]
    y = torch.zeros(len(clips), value_dim, heads, *clips.shape[2:], dtype=clips.dtype)
    for i in itertools.product(*map(range, clips.shape[2:])):
        kernel, relations, features = 0, 0, 0
        for j in itertools.product(*map(range, clips.shape[2:])):
            tap = tuple(b - a + m for a, b, m in zip(i, j, middle, strict=True))
            if all(0 <= place < size for place, size in zip(tap, module.G.kernel_size, strict=True)):
                kj, vj = k[(..., *j)], v[(..., *j)]
                kernel = kernel + h1[(slice(None), slice(None), 0, *tap)] * kj[..., None]  # (B, K, E)
                features = features + module.H2.weight[(slice(None), 0, *tap)] * vj[..., None]  # (B, V, E)
                relations = relations + module.G.weight[(slice(None), 0, *tap)] * vj[..., None]  # (B, V, V)
        if module.P1 is not None:
            kernel = kernel + module.P1
        if module.I is not None:
            relations = relations + module.I
        kernel = torch.einsum("bhc,bce->bhe", q[(..., *i)], kernel)
        features = torch.einsum("buw,bue->bwe", relations, features)
        y[(..., *i)] = torch.einsum("bhe,bwe->bwh", kernel, features)
    return y.flatten(1, 2)


@pytest.mark.parametrize("order", ["h w t", "t h w"])
@pytest.mark.parametrize("grid", [(2, 3, 4), (1, 3, 4), (5, 1, 1)], ids=["joint", "space", "time"])
@pytest.mark.parametrize(("kernel_type", "feat_type"), [("R", "VplusR"), ("VplusR", "R"), ("VplusR", "VplusR")])
def test_it_is_the_sum_over_neighbours(order, grid, kernel_type, feat_type):
    layer = dataclasses.replace(LAYER, grid=grid, order=order)
    module = built(layer, kernel_type=kernel_type, feat_type=feat_type)
    t, h, w = grid
    x = torch.randn(2, 1 + t * h * w, 6, dtype=torch.double, requires_grad=True)
    y, state = module(x, grid, "state")
    clips = by_loops(module, rearrange(x[:, 1:], f"b ({order}) c -> b c t h w", t=t, h=h, w=w))
    expected = rearrange(clips, f"b c t h w -> b ({order}) c")
    assert state == "state"
    assert not y[:, 0].any()
    torch.testing.assert_close(y[:, 1:], expected)
    weight = torch.randn_like(expected)
    parameters = [x, *module.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad((y[:, 1:] * weight).sum(), parameters),
        torch.autograd.grad((expected * weight).sum(), parameters),
    )


def test_no_weight_lies_on_an_axis_of_one_token():
    assert built(dataclasses.replace(LAYER, grid=(1, 3, 4))).G.weight.shape == (3, 1, 1, 3, 5)
    assert built(dataclasses.replace(LAYER, grid=(2, 1, 1))).G.weight.shape == (3, 1, 3, 1, 1)


def test_relations_of_values_start_as_the_identity():
    module = built()
    module.reset_parameters()
    assert torch.equal(module.I[0], torch.eye(3, dtype=torch.double))
    assert module.no_weight_decay() == {"I"}
    assert built(feat_type="R").no_weight_decay() == set()


def test_autocast_keeps_its_type():
    module = built().float()
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = module(torch.randn(1, 25, 6), (2, 3, 4), None)
    assert y.dtype == torch.bfloat16
    assert y.isfinite().all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kernel=(3, 2, 3)), r"kernel=\(3, 2, 3\); set odd"),
        (dict(patterns=0), "patterns=0"),
        (dict(key_dim=0), "key_dim=0"),
        (dict(kernel_type="vplusr"), "did you mean 'VplusR'"),
        (dict(feat_type="V+R"), "unknown feat_type"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim=6, num_heads=4"):
        built(dataclasses.replace(LAYER, num_heads=4))
