"""FCViT's mixer against loops over tokens and groups, its use in space and time, and what it refuses."""

import math
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch.autograd import gradcheck

from videofib.mixers import MIXERS, LayerSpec, MixerChoice
from videofib.mixers.global_context import GlobalContext
from videofib.models import TimeSformer

DIM = 8
SMALL = dict(kernel=5, second_kernel=3, groups=2, reduction=4, min_width=3)
JOINT = dict(img_size=16, patch_size=8, num_classes=3, num_frames=2, depth=1, num_heads=2, pooling="mean")
VARIANTS = [
    ((1, 3, 4), dict()),
    ((2, 3, 4), dict()),
    ((3, 2, 3), dict(time_kernel=3, compete=False, spatial_attention=True)),
    ((5, 1, 1), dict(time_kernel=3)),
    ((2, 2, 3), dict(weighted=False)),
    ((3, 2, 2), dict(context=False, time_kernel=5)),
    ((2, 3, 1), dict(twice=False)),
]


def build(grid=(2, 3, 4), prefix=0, order="t h w", **options):
    torch.manual_seed(0)
    mixer = MIXERS["fcvit"].build(LayerSpec(DIM, 1, prefix, grid, order=order), **{**SMALL, **options}).double()
    with torch.no_grad():
        for parameter in mixer.parameters():
            parameter.normal_(std=0.5)
    return mixer


def slow_context(gc, x):
    """One sample, (n, d) -> (n, d)."""
    mean, groups = x.mean(0), gc.groups
    if gc.compete:
        first, second = gc.fc1(mean).chunk(2)
        context = gc.fc2(torch.where(first > second, first, second))
    else:
        context = gc.fc[2](F.gelu(gc.fc[0](mean)))
    if not gc.weighted:
        return context.expand_as(x)
    parts, centre, context = x.view(len(x), groups, -1), mean.view(groups, -1), context.view(groups, -1)
    s = torch.stack([torch.stack([parts[p, n] @ centre[n] for n in range(groups)]) for p in range(len(x))])
    s = s / math.sqrt(parts.shape[2])
    variance = (s - s.mean()).square().sum() / (s.numel() - 1)
    s = (s - s.mean()) / (variance.sqrt() + 1e-5)
    rows = [
        [(s[p, n] * gc.rescale_weight[n] + gc.rescale_bias[n]) * context[n] for n in range(groups)]
        for p in range(len(x))
    ]
    return torch.stack([torch.cat(row) for row in rows])


def slow_depthwise(convolution, x):
    """A clip of one sample, (t, h, w, d) -> (t, h, w, d): each token sums over its neighbours within the grid."""
    weight = convolution.weight[:, 0]
    weight = weight if weight.ndim == 4 else weight[:, None]  # (d, kt, kh, kw)
    rows = []
    for place in product(*map(range, x.shape[:3])):
        total = convolution.bias
        for offset in product(*map(range, weight.shape[1:])):
            near = [p + o - side // 2 for p, o, side in zip(place, offset, weight.shape[1:], strict=True)]
            if all(0 <= p < size for p, size in zip(near, x.shape[:3], strict=True)):
                total = total + weight[(slice(None), *offset)] * x[tuple(near)]
        rows.append(total)
    return torch.stack(rows).view(x.shape)


def pointwise(convolution, x):
    return x @ convolution.weight[:, :, 0, 0].T + convolution.bias


def slow(mixer, tokens, grid):
    """One sample, (n, d) in the order t h w."""
    x = tokens
    for index in (1, 2)[: 1 + mixer.twice]:
        context, convolution, bottleneck = (getattr(mixer, f"{part}{index}") for part in ("gc", "dw", "fc"))
        if context is not None:
            x = x + slow_context(context, x)
        x = slow_depthwise(convolution, x.view(*grid, DIM)).view(-1, DIM)
        x = F.gelu(pointwise(bottleneck[2], F.gelu(pointwise(bottleneck[0], x))))
    if mixer.spatial_att is not None:
        local, narrow, _, wide = mixer.spatial_att.spatial_att
        weight = slow_depthwise(local, x.view(*grid, DIM)).view(-1, DIM)
        x = x * pointwise(wide, F.gelu(pointwise(narrow, weight))).sigmoid()
    return x


@pytest.mark.parametrize(("grid", "options"), VARIANTS)
def test_the_mixer_is_the_sum_over_neighbours(grid, options):
    mixer = build(grid, **options)
    x = torch.randn(2, math.prod(grid), DIM, dtype=torch.float64, requires_grad=True)
    weight = torch.randn_like(x)
    y, _ = mixer(x, grid, None)
    expected = torch.stack([slow(mixer, tokens, grid) for tokens in x])
    torch.testing.assert_close(y, expected)
    leaves = [x, *mixer.parameters()]  # each is used
    found = torch.autograd.grad((y * weight).sum(), leaves)
    torch.testing.assert_close(found, torch.autograd.grad((expected * weight).sum(), leaves))


def test_gradients_are_numerically_right():
    mixer, grid = build(), (2, 2, 3)
    x = torch.randn(1, 12, DIM, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: mixer(x, grid, None)[0], x)


def test_tokens_that_are_all_alike_have_finite_gradients():
    mixer, grid = build(), (1, 2, 3)
    x = torch.ones(1, 6, DIM, dtype=torch.float64, requires_grad=True)
    mixer(x, grid, None)[0].sum().backward()
    assert x.grad.isfinite().all()


def test_the_context_does_not_depend_on_the_order_of_tokens():
    torch.manual_seed(0)
    context = GlobalContext(DIM, 2, 4, compete=True, weighted=True)
    x, shuffled = torch.randn(2, DIM, 7), torch.randperm(7)
    torch.testing.assert_close(context(x[:, :, shuffled]), context(x)[:, :, shuffled])


def test_both_orders_of_tokens_give_the_same():
    grid, axes = (3, 2, 4), dict(t=3, h=2, w=4)
    x = torch.randn(2, 24, DIM, dtype=torch.float64)
    for time_kernel in (1, 3):
        y, _ = build(grid, time_kernel=time_kernel)(x, grid, None)
        turned = rearrange(x, "b (t h w) d -> b (h w t) d", **axes)
        z, _ = build(grid, order="h w t", time_kernel=time_kernel)(turned, grid, None)
        torch.testing.assert_close(rearrange(z, "b (h w t) d -> b (t h w) d", **axes), y)


def test_frames_see_each_other_by_the_context_and_by_a_time_kernel():
    grid, x = (3, 2, 4), torch.randn(1, 24, DIM, dtype=torch.float64)
    changed = x.clone()
    changed[:, :8] += torch.randn(8, DIM, dtype=torch.float64)  # the first frame

    def others(mixer, x):
        return mixer(x, grid, None)[0][:, 8:]

    for mixer in (build(grid), build(grid, time_kernel=3, context=False)):
        assert not torch.allclose(others(mixer, x), others(mixer, changed))
    frames_apart = build((1, 2, 4), context=False)
    torch.testing.assert_close(others(frames_apart, x), others(frames_apart, changed))


def test_a_time_kernel_with_its_centre_alone_is_the_convolution_of_frames():
    grid, x = (3, 2, 4), torch.randn(2, 24, DIM, dtype=torch.float64)
    frames, clips = build(grid), build(grid, time_kernel=3)
    state = frames.state_dict()
    for name in ("dw1.weight", "dw2.weight"):
        state[name] = F.pad(state[name].unsqueeze(2), (0, 0, 0, 0, 1, 1))
    clips.load_state_dict(state)
    torch.testing.assert_close(clips(x, grid, None), frames(x, grid, None))


def test_kernels_are_flat_where_the_layer_has_no_neighbours():
    options = dict(kernel=11, second_kernel=7, time_kernel=3)
    shapes = {
        grid: [build(grid, **options).dw1, build(grid, **options).dw2] for grid in [(1, 4, 4), (4, 1, 1), (2, 4, 4)]
    }
    sides = {grid: [tuple(dw.kernel_size) for dw in pair] for grid, pair in shapes.items()}
    assert sides == {
        (1, 4, 4): [(11, 11), (7, 7)],  # two axes: published weights load
        (4, 1, 1): [(3, 1, 1), (3, 1, 1)],
        (2, 4, 4): [(3, 11, 11), (3, 7, 7)],
    }


@pytest.mark.parametrize(("options", "width"), [(dict(bottleneck=2), 4), (dict(bottleneck=8), 3)])
def test_bottlenecks_have_a_least_width(options, width):
    assert build(**options).fc1[0].out_channels == width


def test_prefix_tokens_are_left_out():
    grid, x = (2, 3, 4), torch.randn(2, 3 + 24, DIM, dtype=torch.float64)
    y, _ = build(grid, prefix=3)(x, grid, None)
    assert not y[:, :3].any()
    torch.testing.assert_close(y[:, 3:], build(grid)(x[:, 3:], grid, None)[0])


def test_similarities_have_32_bits_under_autocast_and_in_half_models():
    torch.manual_seed(0)
    context = GlobalContext(64, 8, 8, compete=True, weighted=True)
    x = (torch.randn(2, 64, 16) + 20).bfloat16()  # differences between tokens are small beside the tokens
    expected = context(x.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert (context(x) - expected).abs().max() < 0.02 * expected.abs().max()
    halved = context.bfloat16()(x)
    assert halved.dtype == torch.bfloat16
    assert (halved - expected).abs().max() < 0.02 * expected.abs().max()


def test_initial_values_are_the_published_ones():
    mixer = build()
    mixer.reset_parameters()
    for context in (mixer.gc1, mixer.gc2):
        assert (context.rescale_weight == 1).all()
        assert (context.rescale_bias == 0).all()


@pytest.mark.parametrize("kind", ["divided_space_time", "joint_space_time", "space_only"])
def test_it_serves_every_kind_of_attention(kind):
    names = {f"{where}_attention": "fcvit" for where in ("space", "time", "joint")}
    model = TimeSformer(**JOINT, embed_dim=16, attention_type=kind, class_token=False, **names)
    model(torch.randn(2, 3, 2, 16, 16)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(kernel=4), "kernel=4"),
        (dict(second_kernel=2), "kernel=2"),
        (dict(kernel=-1), "kernel=-1"),
        (dict(time_kernel=2), "time_kernel=2"),
        (dict(groups=3), "embed_dim=8, groups=3"),
        (dict(reduction=5), "embed_dim=8, reduction=5"),
        (dict(bottleneck=0), "bottleneck"),
        (dict(context=False), "time_kernel"),
        (dict(grid=(1, 1, 1), groups=1), "groups=1"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_a_class_token_cannot_be_the_pooling():
    layer = LayerSpec(16, 1, 1, (2, 2, 2), pooling="class_token")
    with pytest.raises(ValueError, match="pooling='mean'"):
        MixerChoice({"joint": "fcvit"}, {}).build("joint", layer)
