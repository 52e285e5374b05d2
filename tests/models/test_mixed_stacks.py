"""Blocks of one model with different mixers, or with none."""

import copy

import pytest
import torch

from videofib.mixers import MIXERS
from videofib.models import TimeSformer
from videofib.models.explain import attention_rollout, grad_cam, has_rollout
from videofib.models.explain.reference import dense_rollout

TINY = dict(
    img_size=(16, 24), patch_size=8, num_classes=5, num_frames=3, embed_dim=8, depth=4, num_heads=2, drop_path_rate=0.0
)
CLIP = (2, 3, 3, 16, 24)
STACK = ["none", "fibottention", "none", "dense"]
OF_TYPE = {
    "divided_space_time": dict(space_attention=STACK, time_attention=["none", "dense", "none", "fibottention"]),
    "joint_space_time": dict(joint_attention=STACK),
    "space_only": dict(space_attention=STACK),
}
TYPES = list(OF_TYPE)


def build(attention_type, **changes):
    return TimeSformer(**TINY, **OF_TYPE[attention_type], attention_type=attention_type, **changes)


@pytest.mark.parametrize("attention_type", TYPES)
def test_each_block_has_its_own_mixer(attention_type):
    model = build(attention_type)
    found = {name: type(mixer).__name__ for name, mixer in model.blocks.mixers().items()}
    expected = {"1.attn": "Fibottention", "3.attn": "DenseAttention"}
    if attention_type == "divided_space_time":
        expected |= {"1.temporal_attn": "DenseAttention", "3.temporal_attn": "Fibottention"}
    assert found == expected


@pytest.mark.parametrize("attention_type", TYPES)
def test_a_block_without_a_mixer_is_its_mlp_alone(attention_type, randomize):
    model = randomize(build(attention_type))
    names = {name.split(".")[2] for name in model.state_dict() if name.startswith("blocks.0.")}
    assert names == {"norm2", "mlp"}
    block, x, memory = model.blocks[0], torch.randn(2, 19, 8), {"attn": object()}
    y, handed_on = block(x, (3, 2, 3), memory)
    assert handed_on == memory
    torch.testing.assert_close(y, x + block.mlp(block.norm2(x), memory)[0])


def test_parameters_of_a_block_with_a_mixer_keep_their_order():
    # optimizers' states in older checkpoints are in the order of parameters
    names = [name.split(".")[2] for name, _ in build("joint_space_time").named_parameters() if "blocks.1." in name]
    assert list(dict.fromkeys(names)) == ["norm1", "attn", "norm2", "mlp"]


@pytest.mark.parametrize("attention_type", TYPES)
def test_every_parameter_learns(attention_type, randomize):
    model = randomize(build(attention_type)).train()
    model(torch.randn(CLIP)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("attention_type", TYPES)
@pytest.mark.parametrize("recompute", ["block", "cheap"])
def test_recomputation_changes_nothing(attention_type, recompute, randomize):
    model = randomize(build(attention_type)).train()
    again = copy.deepcopy(model)
    again.blocks.recompute = recompute
    video = torch.randn(CLIP)
    for m in (model, again):
        m(video).square().sum().backward()
    for (name, one), two in zip(model.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad), name


@pytest.mark.parametrize("attention_type", TYPES)
def test_rollout_passes_blocks_that_mix_nothing(attention_type, randomize):
    model, video = randomize(build(attention_type)).eval(), torch.randn(CLIP)
    torch.testing.assert_close(attention_rollout(model, video).heat, dense_rollout(model, video))


@pytest.mark.parametrize("options", [
    dict(joint_attention="xcit", pooling="mean"),
    dict(joint_attention="fibottention", pooling="class_attention"),
    dict(joint_attention="fibottention", local_interaction="time"),
])  # fmt: skip
def test_what_rollout_does_not_know_is_refused_and_explained_otherwise(options):
    model = TimeSformer(**TINY, attention_type="joint_space_time", **options)
    assert not has_rollout(model)
    with pytest.raises(ValueError, match=r"^attention rollout .*; Grad-CAM serves this model$"):
        attention_rollout(model, torch.randn(CLIP))
    heat, _ = grad_cam(model.eval(), torch.randn(CLIP), torch.tensor([0, 1]))
    assert heat.shape == (2, 3, 2, 3)


def test_grad_cam_looks_at_the_last_block_that_shows_patches_to_the_class_token(randomize):
    names = ["fibottention", "dense", "none", "none"]
    model = randomize(TimeSformer(**TINY, attention_type="joint_space_time", joint_attention=names))
    heat, _ = grad_cam(model, torch.randn(CLIP), torch.tensor([0, 1]))
    by_number, _ = grad_cam(model, torch.randn(CLIP), torch.tensor([0, 1]), block=1)
    assert heat.any()
    assert by_number.any()
    with pytest.raises(ValueError, match="no influence on the class token; name -4 to 1"):
        grad_cam(model, torch.randn(CLIP), torch.tensor([0, 1]), block=2)


def test_settings_list_the_mixers_of_all_blocks():
    model = build("joint_space_time", mixer_options={"fibottention": {"w_min": 2}})
    assert model.attention_settings() == {"joint": STACK, "w_min": 2, "token_order": "hwt"}
    alone = TimeSformer(**TINY, attention_type="joint_space_time", joint_attention=["dense"] * 4)
    assert alone.attention_settings() == {}


def test_lists_of_another_length_are_refused():
    with pytest.raises(
        ValueError, match=r"joint_attention names the mixers of 2 blocks, and the model has 4: \['dense'"
    ):
        TimeSformer(**TINY, attention_type="joint_space_time", joint_attention=["dense", "none"])


def test_unknown_names_in_a_list_are_refused():
    with pytest.raises(ValueError, match="unknown joint_attention 'fibotention'; did you mean 'fibottention'"):
        TimeSformer(**TINY, attention_type="joint_space_time", joint_attention=[*STACK[:3], "fibotention"])


def test_divided_blocks_have_both_mixers_or_neither():
    message = "block 1 has time_attention='none' and space_attention='dense'; set both to 'none', or neither"
    with pytest.raises(ValueError, match=message):
        TimeSformer(**TINY, time_attention=["dense", "none", "dense", "dense"])


def test_models_that_never_mix_are_refused():
    with pytest.raises(ValueError, match="no block mixes tokens: joint_attention is 'none' for all of them"):
        TimeSformer(**TINY, attention_type="joint_space_time", joint_attention="none")


def test_slices_are_refused_for_the_first_mixer_that_needs_all_tokens(monkeypatch):
    monkeypatch.setitem(MIXERS, "whole", MIXERS["dense"].__class__(MIXERS["dense"].build, "", lambda mixer, grid: 0,
                        serves=frozenset({"class_token"})))  # fmt: skip
    model = TimeSformer(**TINY, attention_type="joint_space_time", joint_attention=["dense", "none", "whole", "dense"])
    with pytest.raises(ValueError, match=r"joint_attention='whole' needs .* to 'dense' or .*'fibottention'.*, or let"):
        model.share_tokens(None)
