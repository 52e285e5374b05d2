"""Token statistics against loops over tokens and heads, and what must hold of them."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch

from videofib.mixers import LayerSpec
from videofib.mixers.tost import TokenStatistics

LAYER = LayerSpec(dim=12, num_heads=3, num_prefix_tokens=2, grid=(3, 2, 5))


def built(layer=LAYER, dtype=torch.float64, **options):
    torch.manual_seed(0)
    mixer = TokenStatistics(layer, **options).to(dtype)
    for parameter in mixer.parameters():
        torch.nn.init.normal_(parameter, std=0.7)
    return mixer


def slow(mixer, x):
    """One sequence (n, D), token by token; a token of the causal form sees those up to itself."""
    n, num_heads, bias = len(x), mixer.num_heads, mixer.denom_bias
    heads = mixer.qkv(x).chunk(num_heads, dim=1)  # n d each
    scale = 1 if mixer.reference_tokens is None else n / mixer.reference_tokens

    def seen(i):
        return range(n if bias is None else i + 1)

    shares = []
    for i in range(n):
        logits = []
        for h, w in enumerate(heads):
            relative = w[i] ** 2 / sum(w[j] ** 2 for j in seen(i))
            logits.append(mixer.temp[h, 0] * scale * (relative + (0 if bias is None else bias[h, i, 0])).sum())
        shares.append(torch.stack(logits).softmax(0))
    rows = []
    for i in range(n):
        row = []
        for h, w in enumerate(heads):
            mass = sum(shares[j][h] for j in seen(i)) + 1e-8
            moment = sum(shares[j][h] * w[j] ** 2 for j in seen(i)) / mass
            row.append(-shares[i][h] * w[i] / (1 + moment))
        rows.append(torch.cat(row))
    return mixer.to_out[0](torch.stack(rows))


@pytest.mark.parametrize("mix_prefix", [True, False])
@pytest.mark.parametrize("options", [{}, {"reference_tokens": 7}, {"causal": True}], ids=str)
def test_outputs_and_gradients_are_those_of_loops(options, mix_prefix):
    mixer = built(replace(LAYER, qkv_bias=mix_prefix), mix_prefix=mix_prefix, **options)
    x, weight = torch.randn(2, 32, 12, dtype=torch.float64, requires_grad=True), torch.randn(2, 32, 12).double()
    tensors = [x, *mixer.parameters()]
    found, _ = mixer(x, LAYER.grid, None)
    first = 0 if mix_prefix else 2
    expected = torch.stack([slow(mixer, sequence) for sequence in x[:, first:]])
    expected = torch.cat((torch.zeros_like(x[:, :first]), expected), dim=1)
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad((y * weight).sum(), tensors) for y in (found, expected)]
    torch.testing.assert_close(*gradients)


def test_the_order_of_patches_has_no_effect():
    mixer, x, order = built(), torch.randn(2, 32, 12, dtype=torch.float64), torch.randperm(30)
    patches = mixer(x, LAYER.grid, None)[0][:, 2:]
    other = mixer(torch.cat((x[:, :2], x[:, 2:][:, order]), dim=1), LAYER.grid, None)[0][:, 2:]
    torch.testing.assert_close(other, patches[:, order])


def test_the_causal_form_sees_no_later_tokens():
    mixer, x = built(causal=True), torch.randn(1, 32, 12, dtype=torch.float64)
    changed = x.clone()
    changed[:, 20:] += 1
    first, second = (mixer(tokens, LAYER.grid, None)[0] for tokens in (x, changed))
    torch.testing.assert_close(second[:, :20], first[:, :20])
    assert not torch.allclose(second[:, 20:], first[:, 20:])


def test_the_causal_form_takes_fewer_tokens_than_it_is_built_for_and_no_more():
    mixer = built(causal=True)
    assert mixer(torch.randn(1, 2 + 8, 12, dtype=torch.float64), (2, 2, 2), None)[0].shape == (1, 10, 12)
    with pytest.raises(ValueError, match="up to 30 tokens, got 40"):
        mixer(torch.randn(1, 2 + 40, 12, dtype=torch.float64), (4, 2, 5), None)


@pytest.mark.parametrize("grid", [(1, 3, 4), (5, 1, 1), (1, 1, 1)])
def test_frames_and_lines_over_time_are_sequences_like_others(grid):
    mixer, x = built(replace(LAYER, num_prefix_tokens=0)), torch.randn(2, math.prod(grid), 12, dtype=torch.float64)
    y, state = mixer(x, grid, "of others")
    torch.testing.assert_close(y, torch.stack([slow(mixer, sequence) for sequence in x]))
    assert state == "of others"


def test_reference_tokens_keep_shares_apart_when_a_clip_is_repeated():
    mixer = built(replace(LAYER, num_prefix_tokens=0), reference_tokens=30)
    x = torch.randn(1, 30, 12, dtype=torch.float64)
    once, _ = mixer(x, (3, 2, 5), None)
    twice, _ = mixer(x.repeat(1, 2, 1), (6, 2, 5), None)
    torch.testing.assert_close(twice, once.repeat(1, 2, 1))


def test_prefix_tokens_have_no_effect_on_patches_unless_they_are_mixed():
    x = torch.randn(1, 32, 12, dtype=torch.float64)
    changed = torch.cat((x[:, :2] + 1, x[:, 2:]), dim=1)
    apart, mixed = built(), built(mix_prefix=True)
    assert torch.equal(apart(x, LAYER.grid, None)[0], apart(changed, LAYER.grid, None)[0])
    assert not torch.allclose(mixed(x, LAYER.grid, None)[0][:, 2:], mixed(changed, LAYER.grid, None)[0][:, 2:])


@pytest.mark.parametrize("causal", [False, True])
def test_statistics_are_computed_in_32_bits_under_autocast(causal):
    mixer, x = built(replace(LAYER, qkv_bias=False), torch.float32, causal=causal), torch.randn(2, 32, 12)
    expected, _ = mixer(x, LAYER.grid, None)
    w = torch.randn(2, 3, 30, 4).bfloat16()
    gated = partial(mixer._causal, bias=mixer.denom_bias) if causal else partial(mixer._gated, total=30)
    with torch.autocast("cpu", torch.bfloat16):
        y, _ = mixer(x, LAYER.grid, None)
        zeros, _ = mixer(torch.zeros_like(x), LAYER.grid, None)
        found = gated(w)
    assert y.dtype == torch.bfloat16
    assert torch.equal(found, gated(w.float()))
    torch.testing.assert_close(y.float(), expected, atol=0.05 * float(expected.detach().abs().max()), rtol=0)
    assert torch.isfinite(zeros).all()


def test_initial_values_and_what_does_not_decay():
    mixer = built(causal=True)
    mixer.reset_parameters()
    assert mixer.temp.eq(1).all()
    assert mixer.denom_bias.eq(0).all()
    assert mixer.no_weight_decay() == {"temp", "denom_bias"}
    assert built().no_weight_decay() == {"temp"}


def test_options_and_layers_that_it_cannot_serve_are_refused():
    with pytest.raises(ValueError, match="got embed_dim=13, num_heads=3"):
        TokenStatistics(replace(LAYER, dim=13))
    with pytest.raises(ValueError, match="set qk_norm=False"):
        TokenStatistics(replace(LAYER, qk_norm=1e-6))
    with pytest.raises(ValueError, match="got reference_tokens=0"):
        TokenStatistics(LAYER, reference_tokens=0)
    with pytest.raises(ValueError, match="got reference_tokens=4, causal=True; leave one out"):
        TokenStatistics(LAYER, reference_tokens=4, causal=True)
    with pytest.raises(ValueError, match="cannot share the tokens of tost with causal=True"):
        TokenStatistics(LAYER, causal=True).share_tokens(None)
