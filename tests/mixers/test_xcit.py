"""Cross-covariance attention against loops over heads and channels, and what must hold of it."""

import math
from dataclasses import replace

import pytest
import torch

from videofib.mixers import LayerSpec
from videofib.mixers.xcit import CrossCovarianceAttention

LAYER = LayerSpec(dim=15, num_heads=3, num_prefix_tokens=2, grid=(3, 2, 5))


def built(layer=LAYER, dtype=torch.float64, **options):
    torch.manual_seed(0)
    mixer = CrossCovarianceAttention(layer, **options).to(dtype)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return mixer


def slow(mixer, x):
    """One sequence (n, D), channel by channel."""
    num_heads, dim = mixer.num_heads, x.shape[1]
    width = dim // num_heads
    q, k, v = mixer.qkv(x).split(dim, dim=1)
    out = []
    for head in range(num_heads):
        channels = range(head * width, (head + 1) * width)
        for c in channels:
            cosines = [(q[:, c] @ k[:, e]) / (q[:, c].norm() * k[:, e].norm()) for e in channels]
            weights = (mixer.temperature[head, 0, 0] * torch.stack(cosines)).softmax(0)
            out.append(sum(weight * v[:, e] for weight, e in zip(weights, channels, strict=True)))
    return mixer.proj(torch.stack(out, dim=1))


@pytest.mark.parametrize("qkv_bias", [True, False])
@pytest.mark.parametrize("mix_prefix", [True, False])
def test_outputs_and_gradients_are_those_of_loops(mix_prefix, qkv_bias):
    mixer = built(replace(LAYER, qkv_bias=qkv_bias), mix_prefix=mix_prefix)
    x, weight = torch.randn(2, 32, 15, dtype=torch.float64, requires_grad=True), torch.randn(2, 32, 15).double()
    tensors = [x, *mixer.parameters()]
    found, _ = mixer(x, LAYER.grid, None)
    first = 0 if mix_prefix else 2
    expected = torch.stack([slow(mixer, sequence) for sequence in x[:, first:]])
    expected = torch.cat((torch.zeros_like(x[:, :first]), expected), dim=1)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weight).sum(), tensors) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_the_order_of_patches_has_no_effect():
    mixer, x, order = built(), torch.randn(2, 32, 15, dtype=torch.float64), torch.randperm(30)
    patches = mixer(x, LAYER.grid, None)[0][:, 2:]
    other = mixer(torch.cat((x[:, :2], x[:, 2:][:, order]), dim=1), LAYER.grid, None)[0][:, 2:]
    torch.testing.assert_close(other, patches[:, order])


@pytest.mark.parametrize("grid", [(1, 3, 4), (5, 1, 1), (1, 1, 1)])
def test_frames_and_lines_over_time_are_sequences_like_others(grid):
    mixer, x = built(replace(LAYER, num_prefix_tokens=0)), torch.randn(2, math.prod(grid), 15, dtype=torch.float64)
    y, state = mixer(x, grid, "of others")
    torch.testing.assert_close(y, torch.stack([slow(mixer, sequence) for sequence in x]))
    assert state == "of others"


def test_prefix_tokens_have_no_effect_on_patches_unless_they_are_mixed():
    x = torch.randn(1, 32, 15, dtype=torch.float64)
    changed = torch.cat((x[:, :2] + 1, x[:, 2:]), dim=1)
    apart, mixed = built(), built(mix_prefix=True)
    assert torch.equal(apart(x, LAYER.grid, None)[0], apart(changed, LAYER.grid, None)[0])
    assert not torch.allclose(mixed(x, LAYER.grid, None)[0][:, 2:], mixed(changed, LAYER.grid, None)[0][:, 2:])


def test_weights_are_computed_in_32_bits_under_autocast():
    layer = replace(LAYER, qkv_bias=False)
    mixer = built(layer, torch.float32)
    x = torch.randn(2, 32, 15)
    expected, _ = mixer(x, LAYER.grid, None)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = mixer(x, LAYER.grid, None)
        zeros, _ = mixer(torch.zeros_like(x), LAYER.grid, None)
        q, k = torch.randn(2, 1, 3, 5, 30).bfloat16()
        weights = mixer._weights(q, k)
    assert y.dtype == torch.bfloat16
    assert torch.equal(weights, mixer._weights(q.float(), k.float()))
    torch.testing.assert_close(y.float(), expected, atol=0.05 * float(expected.detach().abs().max()), rtol=0)
    assert torch.isfinite(zeros).all()


def test_silent_channels_give_no_nan_in_the_gradient():
    mixer, x = built(replace(LAYER, qkv_bias=False), torch.float32), torch.zeros(1, 32, 15, requires_grad=True)
    mixer(x, LAYER.grid, None)[0].sum().backward()
    assert torch.isfinite(x.grad).all()


def test_initial_temperatures_are_one_and_do_not_decay():
    mixer = built()
    mixer.reset_parameters()
    assert torch.equal(mixer.temperature, torch.ones(3, 1, 1, dtype=torch.float64))
    assert mixer.no_weight_decay() == {"temperature"}


def test_layers_that_it_cannot_serve_are_refused():
    with pytest.raises(ValueError, match="got embed_dim=16, num_heads=3"):
        CrossCovarianceAttention(replace(LAYER, dim=16))
    with pytest.raises(ValueError, match="set qk_norm=False"):
        CrossCovarianceAttention(replace(LAYER, qk_norm=1e-6))
