"""Stages of the baselines: what hooks see in the network as it runs, in both formats, with its features."""

import pytest
import torch
from torch import nn

from tests.models.test_baselines import clips, tiny
from videofib.models import TimeSformer
from videofib.run.feature_model import FeatureModel

STAGES = {"SlowFast_R50": 5, "X3D_S": 5, "R2plus1D_R50": 5, "MViT_B": 16}
CONV_NETS = ["SlowFast_R50", "X3D_S", "R2plus1D_R50"]


def seen_by_hooks(model, video):
    """What each block of the network returns, copied before later ones change it."""
    seen = []

    def copied(_, __, output):
        if isinstance(output, list):
            seen.append(tuple(tensor.clone() for tensor in output))
        else:
            seen.append(output[0].clone() if isinstance(output, tuple) else output.clone())

    handles = [block.register_forward_hook(copied) for block in model.blocks]
    with torch.no_grad():
        model(video)
    for handle in handles:
        handle.remove()
    return seen


def same(found, expected):
    if isinstance(expected, tuple):
        return len(found) == len(expected) and all(map(torch.equal, found, expected))
    return torch.equal(found, expected)


@pytest.mark.parametrize("name", CONV_NETS)
@torch.no_grad()
def test_stages_are_what_the_network_computes(name):
    model, video = tiny(name), clips()
    expected = seen_by_hooks(model, video)
    features, found = model.forward_intermediates(video)
    assert len(found) == model.num_stages == STAGES[name]
    assert all(map(same, found, expected))
    torch.testing.assert_close(features, model.forward_features(video))
    last = found[-1] if name != "SlowFast_R50" else found[-1][0]
    assert last.shape[0] == 2
    assert last.shape[3:] == (2, 2)


@torch.no_grad()
def test_blocks_of_mvit_have_grids_of_their_own():
    model, video = tiny("MViT_B"), clips()
    expected = seen_by_hooks(model, video)
    features, found = model.forward_intermediates(video, return_prefix_tokens=True)
    torch.testing.assert_close(features, model.forward_features(video))
    shapes = [tuple(patches.shape[1:]) for patches, _ in found]
    assert shapes[0] == (192, 4, 16, 16)
    assert shapes[2] == (384, 4, 8, 8)
    assert shapes[13] == (768, 4, 4, 4)
    assert shapes[15] == (768, 4, 2, 2)
    for (patches, prefix), tokens in zip(found, expected, strict=True):
        assert torch.equal(torch.cat((prefix, patches.flatten(2).mT), dim=1), tokens)
    _, [normed] = model.forward_intermediates(video, [-1], norm=True, output_fmt="NLC")
    assert torch.equal(normed, model.norm_embed(expected[-1])[:, 1:])


@pytest.mark.parametrize("name", STAGES)
@torch.no_grad()
def test_indices_formats_and_an_early_stop(name):
    model, video = tiny(name), clips()
    _, every = model.forward_intermediates(video)
    last, second = model.forward_intermediates(video, [-1, 1], intermediates_only=True)
    assert same(last, every[-1])
    assert same(second, every[1])
    handle = model.blocks[2].register_forward_hook(lambda *_: pytest.fail("computed a stage that is not asked for"))
    (stopped,) = model.forward_intermediates(video, [1], stop_early=True, intermediates_only=True)
    assert same(stopped, every[1])
    handle.remove()
    (tokens,) = model.forward_intermediates(video, [1], output_fmt="NLC", intermediates_only=True)
    pairs = zip(tokens, every[1], strict=True) if isinstance(tokens, tuple) else [(tokens, every[1])]
    for found, maps in pairs:
        assert torch.equal(found, maps.flatten(2).mT)


@pytest.mark.parametrize("name", STAGES)
def test_what_there_is_not_is_named(name):
    model, video = tiny(name), clips()
    for options, message in (
        ({"indices": [16]}, f"no block 16 in a model of {STAGES[name]}"),
        ({"output_fmt": "NCHW"}, "output_fmt"),
        ({"stop_early": True}, "set intermediates_only=True, too"),
        ({"indices": [0], "norm": True}, "has none|of 768 features, and stage 0 has 192"),
    ):
        with pytest.raises(ValueError, match=message):
            model.forward_intermediates(video, **options)
    with pytest.raises(ValueError, match="need at least one clip"):
        model.forward_intermediates(video[:0])
    with pytest.raises(ValueError, match="clips"):
        model.forward_intermediates(torch.zeros(1, 3, 8, 20, 20))


def test_gradients_reach_the_stages_and_statistics_are_those_of_one_pass():
    model, video = tiny("X3D_S").train(), clips()
    other = tiny("X3D_S").train()
    _, found = model.forward_intermediates(video)
    found[2].sum().backward()
    assert model.blocks[2].res_blocks[0].branch2.conv_a.weight.grad.abs().sum() > 0
    other(video)
    norms = [[m.running_mean for m in net.modules() if isinstance(m, nn.BatchNorm3d)] for net in (model, other)]
    assert all(map(torch.equal, *norms))


def test_features_of_tokens_stay_those_of_timesformers():
    with pytest.raises(ValueError, match="MViT returns the pooled features of its last block alone"):
        FeatureModel(tiny("MViT_B"), "tokens")
    assert FeatureModel(TimeSformer(img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3), "tokens").block == 1
