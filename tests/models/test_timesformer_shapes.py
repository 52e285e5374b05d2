"""TimeSformer beyond the published shape: sizes, tubelets, registers, pooling, norms and scales."""

from functools import partial

import pytest
import timm
import torch

from videofib.attention import Support
from videofib.models import TimeSformer
from videofib.models.embed import resize_grid, resize_time, resize_volume, sinusoid_positions
from videofib.models.timesformer import SIZES

TINY = dict(img_size=32, patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=2, num_heads=3)
TYPES = ["divided_space_time", "joint_space_time", "space_only"]
PREFIXES = [(True, 0), (True, 4), (False, 0), (False, 2)]  # class token, registers


@pytest.mark.parametrize(
    ("size", "millions"),  # space-only, joint, divided; 400 classes, 8 frames of 224 pixels
    [
        ("tiny", (5.60, 5.60, 7.83)),
        ("small", (21.82, 21.82, 30.70)),
        ("base", (86.11, 86.11, 121.57)),
        ("large", (303.71, 303.72, 429.72)),
    ],
)
def test_every_size_has_its_number_of_parameters(size, millions):
    def parameters(model):
        return sum(p.numel() for p in model.parameters())

    with torch.device("meta"):
        space, joint, divided = (
            parameters(TimeSformer(**SIZES[size], attention_type=attention_type))
            for attention_type in ("space_only", "joint_space_time", "divided_space_time")
        )
        assert space == parameters(timm.create_model(f"vit_{size}_patch16_224", num_classes=400))
    assert tuple(round(count / 1e6, 2) for count in (space, joint, divided)) == millions


@pytest.mark.parametrize("patch_size", [14, 16, 32])
@pytest.mark.parametrize("tubelet_size", [1, 2])
def test_rectangular_clips_of_any_patch_and_tubelet(patch_size, tubelet_size):
    shape = (4, 2 * patch_size, 3 * patch_size)
    model = TimeSformer(
        **{**TINY, "img_size": shape[1:], "patch_size": patch_size},
        tubelet_size=tubelet_size,
        attention_type="joint_space_time",
        joint_attention="fibottention",
    )
    tokens = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: tokens.append(args[0].shape[1]))
    assert model(torch.randn(2, 3, *shape)).shape == (2, 5)
    assert tokens == [1 + 4 // tubelet_size * 6]


def test_a_tubelet_is_projected_as_its_frames_are(randomize):
    """A 3-D kernel is the sum of 2-D ones, one a frame."""
    model = randomize(TimeSformer(**TINY, tubelet_size=2))
    frames = randomize(TimeSformer(**TINY))
    video = torch.randn(2, 3, 4, 32, 32)
    parts = []
    for i in range(2):
        frames.patch_embed.proj.weight.data = model.patch_embed.proj.weight.data[:, :, i]
        frames.patch_embed.proj.bias.data = model.patch_embed.proj.bias.data / 2
        parts.append(frames.patch_embed(video[:, :, i::2]))
    torch.testing.assert_close(model.patch_embed(video), parts[0] + parts[1])


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize(("class_token", "num_registers"), PREFIXES)
@pytest.mark.parametrize("token_order", ["hwt", "thw"])
def test_prefixes_pooling_and_sparse_attention_go_together(
    attention_type, class_token, num_registers, token_order, randomize
):
    sparse = dict(space_attention="fibottention", time_attention="fibottention", joint_attention="fibottention")
    options = dict(
        **TINY, attention_type=attention_type, class_token=class_token, num_registers=num_registers,
        pooling="mean", qk_norm=True, layer_scale=0.1, pre_norm=True, token_order=token_order,
    )  # fmt: skip
    model = randomize(TimeSformer(**options, **sparse))
    dense = randomize(TimeSformer(**options))
    video = torch.randn(2, 3, 4, 32, 32)
    out = model(video)
    assert out.shape == (2, 5)
    assert model.num_prefix_tokens == class_token + num_registers
    assert not torch.allclose(out, dense(video), atol=1e-4)
    model = randomize(TimeSformer(**options, **sparse))
    for block in model.blocks:  # the same weights with every pair allowed
        block.attn.support = partial(Support.dense, 3, num_prefix_tokens=model.num_prefix_tokens)
        if attention_type == "divided_space_time":
            block.temporal_attn.support = partial(Support.dense, 3, num_prefix_tokens=0)
    torch.testing.assert_close(model(video), dense(video), atol=1e-5, rtol=1e-5)
    dense(video).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in dense.parameters())


@pytest.mark.parametrize("attention_type", TYPES)
def test_the_mean_of_the_patches_is_what_the_classifier_sees(attention_type, randomize):
    model = randomize(TimeSformer(**TINY, attention_type=attention_type, num_registers=2, pooling="mean"))
    seen = []
    model.blocks[-1].register_forward_hook(lambda _, args, out: seen.append(out[0]))
    features = model.forward_features(torch.randn(2, 3, 4, 32, 32))
    patches = seen[0][:, 3:].reshape(2, -1, 24)
    torch.testing.assert_close(features, model.norm(patches.mean(1)))


def test_registers_have_no_position_and_the_class_token_has_one(randomize):
    model = randomize(TimeSformer(**TINY, num_registers=2))
    x = model._add_prefix(torch.zeros(2, 4, 24))
    assert torch.equal(x[1, :1], (model.cls_token + model.pos_embed[:, :1])[0])
    assert torch.equal(x[1, 1:3], model.reg_token[0])


def test_sinusoid_positions_are_those_of_the_paper():
    table = sinusoid_positions(7, 6)
    assert table.shape == (1, 7, 6)
    for position in range(7):
        for i in range(6):
            angle = torch.tensor(position / 10000 ** (2 * (i // 2) / 6), dtype=torch.float64)
            expected = torch.cos(angle) if i % 2 else torch.sin(angle)
            assert table[0, position, i].item() == pytest.approx(expected.item(), abs=1e-7)


def test_sinusoid_positions_follow_the_clip(randomize):
    model = randomize(TimeSformer(**TINY, position="sinusoid", class_token=False, pooling="mean"))
    assert not {"pos_embed", "time_embed", "positions"} & set(model.state_dict())
    x = model._add_positions(torch.zeros(1, 2, 3, 5, 24))
    assert torch.equal(x.flatten(1, 3), sinusoid_positions(30, 24))


def test_joint_positions_are_those_of_each_token(randomize):
    """Frame after frame, behind the class token's; for clips of other sizes the nearest."""
    model = randomize(TimeSformer(**TINY, attention_type="joint_space_time", position="learned_joint"))
    assert model.pos_embed.shape == (1, 65, 24)
    assert model.time_embed is None
    x = model._add_positions(torch.zeros(1, 4, 4, 4, 24))
    assert torch.equal(x.flatten(1, 3), model.pos_embed[:, 1:])
    assert torch.equal(model._add_prefix(torch.zeros(1, 0, 24)), model.cls_token + model.pos_embed[:, :1])
    larger = model._add_positions(torch.zeros(1, 8, 4, 8, 24))
    assert torch.equal(larger[:, ::2, :, 1::2], x)
    assert torch.equal(larger[:, 1::2, :, ::2], x)
    model.reset_parameters()
    assert model.pos_embed.std() > 0.05
    assert "pos_embed" in model.no_weight_decay()


def test_joint_positions_are_resized_along_all_axes():
    embed = torch.arange(2.0 * 2 * 3)[None, :, None]
    assert resize_volume(embed, (2, 2, 3), (2, 2, 3)) is embed
    found = resize_volume(embed, (2, 2, 3), (4, 2, 6)).reshape(4, 2, 6)
    expected = embed.reshape(2, 2, 3).repeat_interleave(2, dim=0).repeat_interleave(2, dim=2)
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("activation", "reference"),
    [
        ("gelu", lambda x: x * torch.special.ndtr(x)),
        ("gelu_tanh", lambda x: x / 2 * (1 + torch.tanh(0.7978845608 * (x + 0.044715 * x**3)))),
        ("quick_gelu", lambda x: x / (1 + torch.exp(-1.702 * x))),
    ],
)
def test_activations_are_what_they_are_called(activation, reference):
    model = TimeSformer(**TINY, activation=activation)
    x = torch.linspace(-6, 6, 101)
    for block in model.blocks:
        torch.testing.assert_close(block.mlp.act(x), reference(x), atol=1e-6, rtol=1e-5)


def test_joint_positions_need_tokens_of_a_clip():
    with pytest.raises(ValueError, match="position='learned_joint' has an embedding for each token of a clip"):
        TimeSformer(**TINY, attention_type="space_only", position="learned_joint")


def test_autocast_reaches_normed_queries():
    model = TimeSformer(**TINY, qk_norm=True, attention_type="joint_space_time", joint_attention="fibottention")
    with torch.autocast("cpu", torch.bfloat16):
        out = model(torch.randn(2, 3, 4, 32, 32))
    assert out.dtype == torch.bfloat16
    out.float().sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


def test_embeddings_are_resized_by_either_method():
    ramp = torch.arange(4.0).repeat_interleave(4)[None, :, None].expand(-1, -1, 2)  # rows differ, columns do not
    nearest = resize_grid(ramp, (4, 4), (8, 2))
    assert torch.equal(nearest[0, :, 0], torch.arange(4.0).repeat_interleave(4))
    smooth = resize_grid(ramp, (4, 4), (8, 4), "bicubic")[0, :, 0].reshape(8, 4)
    assert (smooth.diff(dim=0) > 0).all()
    torch.testing.assert_close(smooth, smooth[:, :1].expand(8, 4))
    stripes = torch.tensor([1.0, -1.0]).repeat(8)[None, :, None].repeat_interleave(2, dim=1)  # columns 1 1 -1 -1 ...
    finest = torch.tensor([1.0, -1.0]).repeat(16)[None, :, None]  # columns 1 -1 1 -1 ..., finer than the smaller grid
    assert resize_grid(stripes, (4, 8), (4, 4), "bicubic").abs().max() > 0.5
    assert resize_grid(finest, (4, 8), (4, 3), "bicubic").abs().max() < 0.2  # antialiased away
    line = torch.tensor([0.0, 1.0])[None, :, None]
    assert resize_time(line, 4)[0, :, 0].tolist() == [0, 0, 1, 1]
    assert resize_time(line, 4, "linear")[0, :, 0].tolist() == [0, 0.25, 0.75, 1]


@pytest.mark.parametrize(
    ("change", "shown"),
    [
        (dict(pooling="max"), "'max'"),
        (dict(position="rotary"), "'rotary'"),
        (dict(class_token=False), "class_token=True"),
        (dict(num_registers=-1), "num_registers=-1"),
        (dict(tubelet_size=3), "4 frames do not divide into tubelets of 3"),
        (dict(tubelet_size=0), "tubelet_size=0"),
    ],
)
def test_bad_arguments_are_shown(change, shown):
    with pytest.raises(ValueError, match=shown):
        TimeSformer(**{**TINY, **change})


def test_a_clip_that_tubelets_do_not_tile_is_shown():
    with pytest.raises(ValueError, match="5 frames do not divide into tubelets of 2"):
        TimeSformer(**TINY, tubelet_size=2)(torch.zeros(1, 3, 5, 32, 32))
