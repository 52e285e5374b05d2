"""The names that other projects give to the same weights: the logits are those of their own models."""

import contextlib
import json
import re

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.beit import Beit
from transformers import VideoMAEConfig, VideoMAEForVideoClassification

from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.embed import sinusoid_positions
from videofib.models.pretrained.load import load_pretrained

SMALL = dict(img_size=32, patch_size=8, num_classes=5, embed_dim=48, depth=2, num_heads=3, mlp_ratio=2)
VIDEOMAE = dict(
    **SMALL, num_frames=4, tubelet_size=2, class_token=False, pooling="mean", position="sinusoid",
    attention_type="joint_space_time", norm_eps=1e-5,
)  # fmt: skip
BEIT = dict(**SMALL, attention_type="space_only", num_frames=2)


@pytest.fixture
def videomae(randomize):
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=48, num_hidden_layers=2,
        num_attention_heads=3, intermediate_size=96, num_labels=5, layer_norm_eps=1e-5,
    )  # fmt: skip
    return randomize(VideoMAEForVideoClassification(config))


@pytest.fixture
def clip():
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def before_transformers_5(state):
    """VideoMAE's names in the files of transformers 4, as they are on the hub."""
    renamed = {
        re.sub(r"attention\.(query|value)\.bias$", lambda m: f"attention.{m[1][0]}_bias", name): tensor
        for name, tensor in state.items()
    }
    assert sum(name.endswith(("q_bias", "v_bias")) for name in renamed) == 4
    return renamed


def in_mmaction(state):
    """VideoMAE's names in MMAction2 (mmaction/models/backbones/vit_mae.py), with its table of positions."""
    renamed = {"backbone.pos_embed": sinusoid_positions(32, 48)}
    for name, tensor in before_transformers_5(state).items():
        name = name.removeprefix("videomae.").replace("encoder.layer.", "blocks.")
        for theirs, mmaction in (
            ("embeddings.patch_embeddings.projection", "patch_embed.projection"),
            ("attention.output.dense", "attn.proj"),
            ("attention.attention.", "attn."),
            ("intermediate.dense", "mlp.layers.0.0"),
            ("output.dense", "mlp.layers.1"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
        ):
            name = name.replace(theirs, mmaction)
        is_classifier = name.startswith("classifier")
        renamed[name.replace("classifier", "cls_head.fc_cls") if is_classifier else f"backbone.{name}"] = tensor
    for i in range(2):
        parts = [renamed.pop(f"backbone.blocks.{i}.attn.{part}.weight") for part in ("query", "key", "value")]
        renamed[f"backbone.blocks.{i}.attn.qkv.weight"] = torch.cat(parts)
    return renamed


@pytest.mark.parametrize("prefix", ["", "model.", "module.model."])
@pytest.mark.parametrize("rename", [dict, before_transformers_5, in_mmaction])
def test_videomae_has_the_same_logits_under_all_its_names(rename, prefix, videomae, clip):
    state = {prefix + name: tensor for name, tensor in rename(videomae.state_dict()).items()}
    ours = TimeSformer(**VIDEOMAE).eval()
    assert load_pretrained(ours, state, strict=True).fits
    with torch.no_grad():
        torch.testing.assert_close(ours(clip), videomae(clip.transpose(1, 2)).logits, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_folder_of_transformers_4_is_exact(dtype, videomae, clip, tmp_path):
    videomae = videomae.to(dtype)
    save_file(before_transformers_5(videomae.state_dict()), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(videomae.config.to_dict(), default=str))
    ours = TimeSformer(**VIDEOMAE).eval()
    assert load_pretrained(ours, tmp_path, strict=True).is_exact
    with torch.no_grad():
        expected = videomae.float()(clip.transpose(1, 2)).logits
    torch.testing.assert_close(ours(clip), expected, atol=1e-5, rtol=1e-5)


def test_another_table_of_positions_is_reported(videomae):
    state = in_mmaction(videomae.state_dict())
    state["backbone.pos_embed"] += 0.1
    assert load_pretrained(TimeSformer(**VIDEOMAE), state).unused.keys() == {"pos_embed"}


# nothing becomes zero, or a copy, beside what may be its true values


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"q_bias": None}, "attn.qkv.bias is missing, and blocks.0.attn.v_bias beside it would stay unused"),
        ({"v_bias": None}, r"blocks.0.attn.v_bias is missing, or of another shape"),
        (
            {"q_bias": "qbias", "v_bias": "vbias"},
            "blocks.0.attn.qbias, blocks.0.attn.vbias beside it would stay unused",
        ),
        ({"qkv.weight": "qkv.weight_orig"}, "not the weights of a TimeSformer"),
    ],
)
def test_biases_under_an_unknown_name_are_not_taken_for_absent(changes, message, videomae):
    state = in_mmaction(videomae.state_dict())
    for name in [name for name in state if ".attn." in name]:
        for old, new in changes.items():
            if name.endswith(old):
                tensor = state.pop(name)
                if new:
                    state[name.replace(old, new)] = tensor
    ours = TimeSformer(**VIDEOMAE)
    before = ours.blocks[0].attn.qkv.weight.clone()
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(ours, state)
    assert torch.equal(ours.blocks[0].attn.qkv.weight, before)


@pytest.mark.parametrize(
    ("old", "new", "missing"),
    [
        ("temporal_attn", "temporal_attention", "temporal_attn.qkv.weight"),
        ("temporal_fc", "temporal_dense", "temporal_fc.weight"),
        ("temporal_norm1", "temporal_norm", "temporal_norm1.weight"),
        ("patch_embed.proj.bias", "patch_embed.bias", "patch_embed.proj.bias"),
    ],
)
def test_temporal_attention_under_an_unknown_name_is_not_taken_for_absent(old, new, missing, randomize):
    source = randomize(TimeSformer(**SMALL, num_frames=4))
    state = {name.replace(old, new): tensor for name, tensor in source.state_dict().items()}
    with pytest.raises(CheckpointError, match=rf"{missing} is missing, and \S+"):
        load_pretrained(TimeSformer(**SMALL, num_frames=4), state)


# BEiT


def test_beit_without_relative_positions_is_the_same(randomize):
    theirs = randomize(Beit(**SMALL, use_abs_pos_emb=True, init_values=0.1, global_pool="token", qkv_bias=True))
    ours = TimeSformer(**BEIT, layer_scale=1.0).eval()
    assert load_pretrained(ours, theirs.state_dict(), strict=True).fits
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours(images[:, :, None].expand(-1, -1, 2, -1, -1)), theirs(images), atol=1e-5, rtol=1e-5)
    with pytest.raises(CheckpointError, match="blocks of Beit"):
        load_pretrained(ours, theirs)


@pytest.mark.parametrize("shared", [False, True])
def test_beit_with_relative_positions_never_fits(shared, randomize):
    name = "use_shared_rel_pos_bias" if shared else "use_rel_pos_bias"
    theirs = randomize(Beit(**SMALL, use_abs_pos_emb=True, init_values=0.1, global_pool="token", **{name: True}))
    report = load_pretrained(TimeSformer(**BEIT, layer_scale=1.0), theirs.state_dict())
    assert not report.fits
    assert all("relative_position_bias_table" in unused for unused in report.unused)


@pytest.mark.parametrize(
    "name", ["vit_base_patch16_rope_reg1_gap_256", "vit_small_patch16_rope_mixed_224", "eva02_tiny_patch14_224"]
)
def test_a_model_with_rotary_positions_never_fits(name, randomize):
    theirs = randomize(timm.create_model(name, num_classes=5, depth=2))
    patch = theirs.patch_embed.patch_size[0]
    ours = TimeSformer(
        img_size=patch * 14, patch_size=patch, num_classes=5, embed_dim=theirs.embed_dim, depth=2, num_heads=3,
        attention_type="space_only", num_frames=2, layer_scale=1.0, num_registers=theirs.num_prefix_tokens - 1 or 1,
    )  # fmt: skip
    for weights in (theirs, theirs.state_dict()):
        with contextlib.suppress(CheckpointError):
            assert not load_pretrained(ours, weights).fits
