"""What blocks return, in layouts that do not depend on the model's own: equal to what a hook on the block sees."""

import inspect

import pytest
import timm
import torch
from einops import rearrange

from videofib.models.slicing import SlicedTokens
from videofib.models.timesformer import TimeSformer

TINY = dict(
    img_size=(16, 24), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=3, num_heads=3, drop_path_rate=0.0
)
CLIP = (2, 3, 4, 16, 24)
GRID = dict(t=4, h=2, w=3)
MODELS = {
    "joint": dict(attention_type="joint_space_time", joint_attention="fibottention"),
    "joint, frame after frame": dict(attention_type="joint_space_time", token_order="thw"),
    "divided": dict(attention_type="divided_space_time", num_registers=2),
    "space only": dict(attention_type="space_only", num_registers=1),
    "no prefix, mean": dict(attention_type="joint_space_time", class_token=False, pooling="mean"),
    "recomputed": dict(attention_type="divided_space_time", gradient_checkpointing=True),
}
LAYOUTS = {"space only": "(b t) (h w) d", "joint, frame after frame": "b (t h w) d"}


@pytest.fixture(params=MODELS)
def case(request, randomize):
    """A model, the layout of its patches between blocks, and a clip."""
    torch.manual_seed(0)
    model = randomize(TimeSformer(**TINY, **MODELS[request.param]))
    return model, LAYOUTS.get(request.param, "b (h w t) d"), torch.randn(CLIP)


def hooked(model, video):
    """The tokens that each block returns in an ordinary forward pass."""
    seen = []
    handles = [block.register_forward_hook(lambda *args: seen.append(args[2][0])) for block in model.blocks]
    model(video)
    for handle in handles:
        handle.remove()
    return seen


def test_equal_to_a_hook_on_each_block(case):
    model, layout, video = case
    prefix_length = model.num_prefix_tokens
    features, found = model.forward_intermediates(video, return_prefix_tokens=True)
    torch.testing.assert_close(features, model.forward_features(video), rtol=0, atol=0)
    assert len(found) == 3
    for item, tokens in zip(found, hooked(model, video), strict=True):
        patches, prefix = item if prefix_length else (item, None)
        expected = rearrange(tokens[:, prefix_length:], f"{layout} -> b d t h w", **GRID)
        torch.testing.assert_close(patches, expected, rtol=0, atol=0)
        if prefix_length and model.attention_type == "space_only":
            for clip, frame in [(0, 0), (1, 2)]:
                own = prefix[clip, frame * prefix_length : (frame + 1) * prefix_length]
                torch.testing.assert_close(own, tokens[clip * 4 + frame, :prefix_length], rtol=0, atol=0)
        elif prefix_length:
            torch.testing.assert_close(prefix, tokens[:, :prefix_length], rtol=0, atol=0)


def test_tokens_are_the_feature_map_frame_after_frame(case):
    model, _, video = case
    maps = model.forward_intermediates(video, intermediates_only=True)
    tokens = model.forward_intermediates(video, output_fmt="NLC", intermediates_only=True)
    for feature_map, sequence in zip(maps, tokens, strict=True):
        assert feature_map.shape == (2, 24, 4, 2, 3)
        torch.testing.assert_close(sequence, feature_map.flatten(2).transpose(1, 2), rtol=0, atol=0)


def test_the_last_norm(case):
    model, _, video = case
    plain = model.forward_intermediates(video, output_fmt="NLC", intermediates_only=True)
    normed = model.forward_intermediates(video, norm=True, output_fmt="NLC", intermediates_only=True)
    for one, other in zip(plain, normed, strict=True):
        torch.testing.assert_close(other, model.norm(one))


def test_gradients_are_those_through_a_hook(case):
    model, _, video = case
    model.train()  # the recomputed blocks, too
    (found,) = model.forward_intermediates(video, [1], intermediates_only=True)
    found.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    hooked(model, video)[1][:, model.num_prefix_tokens :].square().sum().backward()
    assert gradients["blocks.1.mlp.fc1.weight"].any()
    for name, p in model.named_parameters():
        torch.testing.assert_close(gradients[name], p.grad, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize(
    ("indices", "blocks"), [(None, [0, 1, 2]), (2, [1, 2]), ([0], [0]), ([-1, 0], [2, 0]), ((1, 1), [1, 1])]
)
def test_blocks_are_named_as_for_timm(indices, blocks, randomize):
    model = randomize(TimeSformer(**TINY))
    video = torch.randn(CLIP)
    expected = model.forward_intermediates(video, intermediates_only=True)
    found = model.forward_intermediates(video, indices, intermediates_only=True)
    for one, block in zip(found, blocks, strict=True):
        torch.testing.assert_close(one, expected[block], rtol=0, atol=0)


def test_stopping_early_computes_no_later_block(randomize):
    model = randomize(TimeSformer(**TINY))
    video, computed = torch.randn(CLIP), []
    for index, block in enumerate(model.blocks):
        block.register_forward_hook(lambda *_, index=index: computed.append(index))
    features, (tokens,) = model.forward_intermediates(video, [-2], return_prefix_tokens=True, stop_early=True)
    assert computed == [0, 1]
    torch.testing.assert_close(features, model.norm(tokens[1][:, 0]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (dict(indices=4), "asks for the last 4 blocks of 3; name 1 to 3"),
        (dict(indices=0), "asks for the last 0 blocks of 3"),
        (dict(indices=[3]), "no block 3 in a model of 3; name -3 to 2"),
        (dict(indices=[-4]), "no block -4"),
        (dict(indices=[]), "names no block"),
        (dict(output_fmt="NCHW"), "unknown output_fmt 'NCHW'; did you mean 'NCTHW'"),
    ],
)
def test_what_there_is_not_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        TimeSformer(**TINY).forward_intermediates(torch.randn(CLIP), **options)


def test_tokens_that_processes_share_are_refused():
    model = TimeSformer(**TINY, attention_type="joint_space_time")
    model.tokens = SlicedTokens(None, 1, "class_token")
    with pytest.raises(ValueError, match="shared by several processes"):
        model.forward_intermediates(torch.randn(CLIP))


def test_names_and_defaults_are_those_of_timm():
    kinds = (TimeSformer, timm.models.VisionTransformer)
    ours, theirs = (inspect.signature(kind.forward_intermediates).parameters for kind in kinds)
    defaults = {name: parameter.default for name, parameter in ours.items() if name != "output_fmt"}
    assert defaults == {name: theirs[name].default for name in defaults}
