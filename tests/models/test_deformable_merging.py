"""Deformable token merging: against torchvision's operator, plain loops, gradients, its start, and other clips."""

import pytest
import torch
import torch.nn.functional as F

from videofib.engine.optim import parameter_groups
from videofib.models import TimeSformer
from videofib.models.blocks import GRID
from videofib.models.deformable_merging import DeformableConv, DeformableMerging, bilinear_samples

SIZES = dict(img_size=(32, 64), patch_size=8, num_classes=5, num_frames=3, embed_dim=16, depth=3, num_heads=2)


def far_offsets(conv, spread):
    """Let the offsets of a convolution reach beyond the borders."""
    with torch.no_grad():
        conv.conv_offset.weight.normal_(0, spread)
        conv.conv_offset.bias.normal_(0, spread)
    return conv


@pytest.mark.parametrize("size", [(2, 2), (4, 6), (6, 2)])
def test_the_convolution_is_torchvisions(size):
    ops = pytest.importorskip("torchvision.ops")
    torch.manual_seed(0)
    conv = far_offsets(DeformableConv(5, 7).double(), 0.6)
    maps = torch.randn(3, 5, *size, dtype=torch.double, requires_grad=True)
    offsets = conv.conv_offset(maps)
    assert offsets.abs().max() > 1.5
    expected = ops.deform_conv2d(maps, offsets, conv.weight, conv.bias, stride=2)
    torch.testing.assert_close(conv(maps), expected)
    weights = torch.randn_like(expected)
    parameters = [maps, *conv.parameters()]
    for found, wanted in zip(
        torch.autograd.grad((conv(maps) * weights).sum(), parameters),
        torch.autograd.grad((expected * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(found, wanted)


def test_samples_fade_over_the_token_beyond_the_border():
    row = torch.tensor([[[[1.0, 2.0, 3.0]]]])  # (1, 1, 1, 3)
    x = torch.tensor([[-1.5, -1.0, -0.25, 0.0, 0.5, 2.0, 2.75, 3.0, 4.0]])
    found = bilinear_samples(row, torch.zeros_like(x), x)
    torch.testing.assert_close(found[0, 0], torch.tensor([0.0, 0.0, 0.75, 1.0, 1.5, 3.0, 0.75, 0.0, 0.0]))
    y = torch.tensor([[-0.5, 0.5, 1.0]])
    torch.testing.assert_close(bilinear_samples(row, y, torch.ones_like(y))[0, 0], torch.tensor([1.0, 1.0, 0.0]))


def test_it_starts_as_a_plain_convolution():
    torch.manual_seed(0)
    conv = DeformableConv(4, 4)
    merging = DeformableMerging(4)
    merging.dconv = conv
    merging.reset_parameters()
    maps = torch.randn(2, 4, 4, 6)
    torch.testing.assert_close(conv(maps), F.conv2d(maps, conv.weight, conv.bias, stride=2))


@pytest.mark.parametrize("order", ["h w t", "t h w"])
@pytest.mark.parametrize("train", [False, True])
def test_frames_are_merged_in_space_alone(order, train):
    torch.manual_seed(0)
    t, h, w, d = 3, 4, 2, 6
    merging = DeformableMerging(d, order=order, num_prefix_tokens=1).train(train)
    far_offsets(merging.dconv, 0.5)
    prefix, frames = torch.randn(2, 1, d), torch.randn(2, t, h, w, d)
    patches = frames if order == "t h w" else frames.permute(0, 2, 3, 1, 4)
    x, memory = merging(torch.cat((prefix, patches.flatten(1, 3)), 1), (t, h, w), {})
    assert memory[GRID] == (t, 2, 1)
    assert torch.equal(x[:, :1], prefix)
    maps = frames.flatten(0, 1).permute(0, 3, 1, 2)
    expected = F.gelu(merging.norm_layer(merging.dconv(maps))).unflatten(0, (2, t))  # (b, t, d, h/2, w/2)
    found = x[:, 1:].unflatten(1, (t, 2, 1) if order == "t h w" else (2, 1, t))
    axes = (0, 1, 4, 2, 3) if order == "t h w" else (0, 3, 4, 1, 2)
    torch.testing.assert_close(found.permute(*axes), expected, rtol=1e-4, atol=1e-5)


def test_offsets_have_32_bits_under_autocast():
    merging = far_offsets(DeformableMerging(8).dconv, 0.5)
    maps = torch.randn(1, 8, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = merging(maps)
    torch.testing.assert_close(found.float(), merging(maps), rtol=0.05, atol=0.1)


@pytest.mark.parametrize("attention_type", ["joint_space_time", "divided_space_time", "space_only"])
def test_a_model_has_maps_of_half_the_size(attention_type, randomize):
    model = randomize(TimeSformer(**SIZES, attention_type=attention_type, deformable_merging={"after": [0, 1]}))
    _, maps = model.forward_intermediates(torch.randn(2, 3, 3, 32, 64))
    assert [tuple(each.shape) for each in maps] == [(2, 16, 3, 2, 4), (2, 16, 3, 1, 2), (2, 16, 3, 1, 2)]
    larger = torch.randn(1, 3, 4, 64, 64)
    _, maps = model.forward_intermediates(larger)
    assert [tuple(each.shape) for each in maps] == [(1, 16, 4, 4, 4), (1, 16, 4, 2, 2), (1, 16, 4, 2, 2)]


def test_sparse_mixers_behind_it_have_the_smaller_grid(randomize):
    for name in ("fibottention", "natten", "lit", "shunted"):
        model = randomize(
            TimeSformer(
                **{**SIZES, "img_size": (64, 64)},
                attention_type="joint_space_time",
                joint_attention=name,
                pooling="mean",
                deformable_merging={"after": [0]},
            )
        )
        assert model(torch.randn(1, 3, 3, 64, 64)).shape == (1, 5)


def test_odd_sides_are_refused():
    with pytest.raises(ValueError, match=r"even sides, got \(t, h, w\) = \(3, 2, 3\)"):
        TimeSformer(**{**SIZES, "img_size": (32, 48)}, deformable_merging={"after": [0, 1]})
    model = TimeSformer(**SIZES, deformable_merging={"after": [0]})
    with pytest.raises(ValueError, match=r"even sides, got \(t, h, w\) = \(3, 5, 8\)"):
        model(torch.randn(1, 3, 3, 40, 64))
    with pytest.raises(ValueError, match="prefix tokens keep their width"):
        DeformableMerging(8, 16, num_prefix_tokens=1)


def test_weights_of_offsets_learn_at_a_hundredth_of_the_rate():
    model = TimeSformer(**SIZES, deformable_merging={"after": [0]})
    for layer_decay in (1.0, 0.5):
        groups = parameter_groups(model, 0.05, layer_decay=layer_decay)
        convolution = model.reductions["0"].dconv.conv_offset
        scales = {
            name: group.get("lr_scale", 1.0)
            for name, wanted in (("weight", convolution.weight), ("bias", convolution.bias))
            for group in groups
            if any(parameter is wanted for parameter in group["params"])
        }
        assert scales["weight"] == pytest.approx(0.01 * scales["bias"])
        assert scales["bias"] == (1.0 if layer_decay == 1 else 0.5**3)  # of block 0 in a model of 3
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
