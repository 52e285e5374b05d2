"""Linformer equals sums written out, and takes only the tokens that it is built for."""

import math

import pytest
import torch

from videofib.mixers import LayerSpec, MixerChoice
from videofib.mixers.linformer import Linformer

LAYER = LayerSpec(dim=6, num_heads=3, num_prefix_tokens=2, grid=(1, 3, 3))


def built(layer=LAYER, **options):
    torch.manual_seed(0)
    return Linformer(layer, **options).double()


def tokens(layer=LAYER):
    return torch.randn(2, layer.num_prefix_tokens + math.prod(layer.grid), layer.dim, dtype=torch.float64)


def one_query(query, keys, values):
    """A query (D,) looks at keys and values (M, D)."""
    weights = torch.stack([(query * key).sum() / len(query) ** 0.5 for key in keys]).exp()
    return sum(weight * value for weight, value in zip(weights / weights.sum(), values, strict=True))


def mixtures(rows, matrix):
    """R sums over L rows (L, D), weighted by columns of a matrix (L, R)."""
    return [sum(weight * row for weight, row in zip(column, rows, strict=True)) for column in matrix.T]


def reference(mixer, x):
    width, out = x.shape[2] // mixer.num_heads, []
    apart = mixer.num_prefix_tokens if mixer.prefix == "apart" else 0
    for sequence in x:
        q, k, v = (sequence @ mixer.qkv.weight.T + mixer.qkv.bias).chunk(3, dim=1)
        heads = []
        for h in range(mixer.num_heads):
            e = mixer.proj_k[h] if mixer.sharing == "none" else mixer.proj_k
            f = e if mixer.sharing == "kv" else mixer.proj_v[h] if mixer.sharing == "none" else mixer.proj_v
            q_h, k_h, v_h = (y[:, h * width : (h + 1) * width] for y in (q, k, v))
            keys, values = [*k_h[:apart], *mixtures(k_h[apart:], e)], [*v_h[:apart], *mixtures(v_h[apart:], f)]
            heads.append(torch.stack([one_query(query, keys, values) for query in q_h]))
        out.append(torch.cat(heads, dim=1) @ mixer.proj.weight.T + mixer.proj.bias)
    return torch.stack(out)


@pytest.mark.parametrize("prefix", ["projected", "apart"])
@pytest.mark.parametrize("sharing", ["none", "heads", "kv"])
def test_output_and_gradients_equal_sums_written_out(sharing, prefix):
    mixer, x = built(rank=4, sharing=sharing, prefix=prefix), tokens().requires_grad_()
    y, expected = mixer(x, LAYER.grid, None)[0], reference(mixer, x)
    torch.testing.assert_close(y, expected)
    weights, leaves = torch.randn_like(y), [x, *mixer.parameters()]
    found = torch.autograd.grad((y * weights).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weights).sum(), leaves))


def test_permuted_tokens_and_permuted_rows_of_the_projections_give_permuted_outputs():
    mixer, x, order = built(rank=4), tokens(), torch.randperm(11)
    y, _ = mixer(x, LAYER.grid, None)
    with torch.no_grad():
        mixer.proj_k.copy_(mixer.proj_k[order])
        mixer.proj_v.copy_(mixer.proj_v[order])
    torch.testing.assert_close(mixer(x[:, order], LAYER.grid, None)[0], y[:, order])


def test_initial_projections_lie_within_one_over_the_root_of_the_rank():
    mixer = built(rank=16, sharing="none")
    assert mixer.proj_k.shape == (3, 11, 16)
    for projection in (mixer.proj_k, mixer.proj_v):
        assert 0.2 < float(projection.detach().abs().max()) <= 0.25


def test_each_axis_has_projections_of_its_own_length():
    choice = MixerChoice({"time": "linformer"}, {"linformer": {"rank": 2}})
    layer = LayerSpec(dim=6, num_heads=3, num_prefix_tokens=0, grid=(4, 1, 1))
    mixer = choice.build("time", layer)
    assert mixer.proj_k.shape == (4, 2)
    assert mixer(torch.randn(5, 4, 6), layer.grid, None)[0].shape == (5, 4, 6)
    with pytest.raises(ValueError, match="takes only clips of the size"):
        choice.check_grid((4, 3, 3), (8, 3, 3))


def test_other_numbers_of_tokens_are_refused():
    with pytest.raises(ValueError, match="built for 11 tokens, got 12"):
        built()(torch.zeros(1, 12, 6, dtype=torch.float64), (1, 2, 5), None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(rank=0), "rank must be at least 1, got rank=0"),
        (dict(sharing="head"), "unknown sharing 'head'; did you mean 'heads'"),
        (dict(prefix="separate"), "unknown prefix 'separate'"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_a_width_that_heads_do_not_divide_is_refused():
    with pytest.raises(ValueError, match="dim=6, num_heads=4"):
        built(LayerSpec(dim=6, num_heads=4, num_prefix_tokens=0, grid=(1, 3, 3)))
