"""Mixers over patterns: the pairs on a grid in either order of tokens, frames and lines, the cost of Fibottention."""

import copy
import pickle
from dataclasses import replace

import pytest
import torch
from einops import rearrange

from videofib.attention import Support, patterns
from videofib.mixers import MIXERS, LayerSpec

LAYER = LayerSpec(dim=24, num_heads=3, num_prefix_tokens=2, grid=(3, 4, 5), order="t h w", qk_norm=1e-6)
OPTIONS = {
    "axial_time": {},
    "grid_window": dict(radius=(1, 2, 1), dilation=(1, 1, 2)),
    "natten": dict(kernel=(2, 3, 3), dilation=(1, 1, 1), causal=True),
    "random": dict(keep=0.1, seed=3),
    "bigbird": dict(radius=2, num_random=3, num_global=1),
    "sparse_fixed": dict(length=7, num_summary=3, distinct_heads=True),
    "cross_diagonal": dict(w_min=3, variant="modified"),
}
ON_GRIDS = ["axial_time", "grid_window", "natten"]


def build(name, layer=LAYER, **options):
    torch.manual_seed(0)
    return MIXERS[name].build(layer, **(options or OPTIONS[name])).double()


@pytest.mark.parametrize("backend", ["auto", "gather"])
@pytest.mark.parametrize("name", OPTIONS)
def test_mixer_is_masked_attention(name, backend):
    mixer = build(name, replace(LAYER, backend=backend))
    x = torch.randn(2, 62, 24, dtype=torch.float64, requires_grad=True)
    q, k, v = mixer.qkv(x).view(2, 62, 3, 3, 8).permute(2, 0, 3, 1, 4)
    logits = mixer.q_norm(q) @ mixer.k_norm(k).mT / 8**0.5
    weights = logits.masked_fill(~mixer.pattern_for(LAYER.grid).to_mask(), float("-inf")).softmax(-1)
    expected = mixer.proj((weights @ v).transpose(1, 2).flatten(2))
    found, _ = mixer(x, LAYER.grid, None)
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(found)
    parameters = [x, *mixer.parameters()]
    torch.testing.assert_close(
        torch.autograd.grad(found, parameters, probe), torch.autograd.grad(expected, parameters, probe)
    )


@pytest.mark.parametrize("name", ON_GRIDS)
def test_both_orders_are_the_same_up_to_a_permutation(name):
    x = torch.randn(2, 62, 24, dtype=torch.float64)
    prefix, patches = x[:, :2], rearrange(x[:, 2:], "b (t h w) d -> b (h w t) d", t=3, h=4)
    expected, _ = build(name)(x, LAYER.grid, None)
    found, _ = build(name, replace(LAYER, order="h w t"))(torch.cat((prefix, patches), 1), LAYER.grid, None)
    found = torch.cat((found[:, :2], rearrange(found[:, 2:], "b (h w t) d -> b (t h w) d", t=3, h=4)), 1)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("name", ON_GRIDS)
def test_outputs_move_with_the_tokens_of_one_axis_reversed(name):
    """A mirror image in width is attended to as the image is: the windows here are odd along it."""
    x = torch.randn(1, 62, 24, dtype=torch.float64)

    def mirrored(x):
        return torch.cat((x[:, :2], rearrange(x[:, 2:], "b (n w) d -> b n w d", w=5).flip(2).flatten(1, 2)), 1)

    mixer = build(name)
    torch.testing.assert_close(mixer(mirrored(x), LAYER.grid, None)[0], mirrored(mixer(x, LAYER.grid, None)[0]))


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("grid", [(1, 4, 5), (3, 1, 1), (2, 3, 3)])
def test_one_mixer_serves_frames_lines_and_other_clips(name, grid):
    mixer = build(name, replace(LAYER, num_prefix_tokens=0), **OPTIONS[name])
    num_tokens = grid[0] * grid[1] * grid[2]
    if name == "sparse_fixed" or num_tokens > 3 or name in ON_GRIDS:
        y, _ = mixer(torch.randn(2, num_tokens, 24, dtype=torch.float64), grid, None)
        assert y.shape == (2, num_tokens, 24)
        assert y.isfinite().all()


def test_axial_time_in_frames_is_each_token_alone_and_over_time_dense():
    mixer = build("axial_time")
    assert mixer.pattern_for((1, 4, 5)).num_pairs(include_prefix=False) == 3 * 20
    assert mixer.pattern_for((4, 1, 1)).density() == 1


def test_natten_is_as_long_as_a_short_axis():
    pattern = build("natten", kernel=5, dilation=2).pattern_for((4, 5, 9))
    expected = patterns.neighbourhood(3, (4, 5, 9), kernel=(2, 2, 4), dilation=(2, 2, 2), num_prefix_tokens=2)
    assert pattern == expected


@pytest.mark.parametrize("name", ["random", "bigbird"])
def test_layers_draw_different_pairs_and_each_the_same_again(name):
    first, again, second = (build(name, replace(LAYER, index=index)).pattern_for(LAYER.grid) for index in (0, 0, 1))
    assert first == again
    assert first != second


CHOICES = {  # what fixes the cost, with values to choose from
    "grid_window": ("radius", [1, 2, 3, 4]),
    "natten": ("kernel", [3, 5, 7]),
    "random": ("keep", [0.02, 0.03, 0.05, 0.1]),
    "bigbird": ("num_random", [0, 1, 2, 4, 8, 12, 16, 20]),
    "sparse_fixed": ("length", [2, 8, 12, 14, 16, 18, 24]),
}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("grid", [(4, 8, 8), (1, 16, 16), (2, 3, 4), (1, 1, 100)])
def test_by_default_no_choice_is_nearer_to_fibottentions_density(name, grid):
    num_tokens = grid[0] * grid[1] * grid[2]
    layer, target = replace(LAYER, grid=grid), Support.fibottention(3, num_tokens).density()

    def error(**options):
        return abs(MIXERS[name].build(layer, **options).pattern_for(grid).density() - target)

    option, values = CHOICES[name]
    chance = 0.05 if name == "random" else 0  # the density of few drawn pairs is near its expectation only
    assert error() <= min(error(**{option: value}) for value in values) + chance


def test_pattern_of_another_clip_within_a_traced_pass_is_kept_with_numbers():
    from torch._subclasses import FakeTensorMode

    mixer = build("natten")
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        mixer(torch.zeros(1, 2 + 24, 24, dtype=torch.float64), (2, 3, 4), None)
    assert type(mixer.pattern_for((2, 3, 4)).cols) is torch.Tensor
    assert mixer.pattern_for((2, 3, 4)).cols.sum() > 0


@pytest.mark.parametrize("name", OPTIONS)
def test_copies_share_the_pattern_and_pickles_hold_it(name):
    mixer, x = build(name), torch.randn(1, 62, 24, dtype=torch.float64)
    assert copy.deepcopy(mixer).pattern_for(LAYER.grid) is mixer.pattern_for(LAYER.grid)
    again = pickle.loads(pickle.dumps(mixer))
    assert again.pattern_for(LAYER.grid) == mixer.pattern_for(LAYER.grid)
    assert again.pattern_for((2, 3, 4)) == mixer.pattern_for((2, 3, 4))
    assert torch.equal(again(x, LAYER.grid, None)[0], mixer(x, LAYER.grid, None)[0])


def test_exports_hold_the_operations_of_gather():
    mixer, x = build("natten", replace(LAYER, backend="gather")), torch.randn(1, 62, 24, dtype=torch.float64)
    batch = torch.export.Dim("batch", min=1)

    class Layer(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.mixer = mixer

        def forward(self, x):
            return self.mixer(x, LAYER.grid, None)[0]

    program = torch.export.export(Layer(), (torch.cat((x, x)),), dynamic_shapes=({0: batch},), strict=False)
    assert "videofib" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), mixer(x, LAYER.grid, None)[0])


@pytest.mark.parametrize("name", OPTIONS)
def test_compiled_checkpointed_and_cast(name):
    mixer = build(name).float()
    x = torch.randn(2, 62, 24, requires_grad=True)

    def loss(x):
        return mixer(x, LAYER.grid, None)[0].square().sum()

    (expected,) = torch.autograd.grad(loss(x), x)
    (compiled,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(x), x)
    torch.testing.assert_close(compiled, expected)
    recomputed = torch.utils.checkpoint.checkpoint(loss, x, use_reentrant=False)
    torch.testing.assert_close(torch.autograd.grad(recomputed, x)[0], expected)
    with torch.autocast("cpu", torch.bfloat16):
        half = mixer(x, LAYER.grid, None)[0]
    torch.testing.assert_close(half.float(), mixer(x, LAYER.grid, None)[0], atol=0.03, rtol=0.03)


@pytest.mark.parametrize(
    ("name", "layer", "options", "message"),
    [
        ("natten", LAYER, dict(kernel=(3, 3)), "kernel=\\(3, 3\\)"),
        ("natten", LAYER, dict(kernel=0), "kernel=\\(0, 0, 0\\)"),
        ("grid_window", LAYER, dict(dilation=(1, 2)), "dilation=\\(1, 2\\)"),
        ("random", LAYER, dict(keep=1.5), "keep=1.5"),
        ("bigbird", LAYER, dict(radius=-1), "radius=-1"),
        ("sparse_fixed", LAYER, dict(length=2, num_summary=3), "num_summary=3"),
        ("cross_diagonal", LAYER, dict(variant="none"), "'none'"),
        ("axial_time", replace(LAYER, num_heads=5), {}, "dim=24, num_heads=5"),
        ("axial_time", replace(LAYER, backend="triton"), {}, "'triton'"),
    ],
)
def test_bad_options_and_layers_are_refused(name, layer, options, message):
    with pytest.raises(ValueError, match=message):
        MIXERS[name].build(layer, **options)


@pytest.mark.filterwarnings("ignore")
def test_a_pass_traced_by_torch_jit_takes_the_pattern_that_is_there():
    mixer = build("natten").float().requires_grad_(False)

    def attend(x, clip):
        return mixer(x, clip.shape, None)[0]  # sizes are tensors in such a pass

    graph = str(
        torch.jit.trace(attend, (torch.randn(1, 62, 24), torch.zeros(3, 4, 5)), check_trace=False).inlined_graph
    )
    assert "pattern_attention" in graph
    assert "searchsorted" not in graph
