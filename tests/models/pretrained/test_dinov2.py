"""The image models DINOv2 (with registers and without) and ViT, in each of their layouts: their features are kept."""

import pytest
import timm
import torch
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    Dinov2WithRegistersConfig,
    Dinov2WithRegistersModel,
    ViTConfig,
    ViTModel,
)

from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained

SMALL = dict(hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=56, patch_size=14)
CONFIGS = {  # DINOv2's has mlp_ratio 4
    Dinov2WithRegistersModel: lambda: Dinov2WithRegistersConfig(**SMALL, num_register_tokens=4),
    Dinov2Model: lambda: Dinov2Config(**SMALL),
    ViTModel: lambda: ViTConfig(**SMALL, intermediate_size=96),
}


def timesformer(num_registers=0, **options):
    return TimeSformer(
        img_size=56, patch_size=14, num_classes=0, num_frames=1, embed_dim=24, depth=2, num_heads=3,
        attention_type="space_only", num_registers=num_registers, **options,
    )  # fmt: skip


@pytest.fixture
def images():
    return torch.randn(2, 3, 56, 56, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def check_same_features(ours, expected, images):
    assert torch.allclose(ours.eval()(images[:, :, None]), expected, atol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("form", ["module", "state dict", "folder"])
def test_models_of_transformers_keep_their_features(kind, form, images, randomize, tmp_path):
    """The names within the module and those in its files differ since transformers 5."""
    config = CONFIGS[kind]()
    theirs = randomize(kind(config)).eval()
    theirs.save_pretrained(tmp_path)
    weights = {"module": theirs, "state dict": theirs.state_dict(), "folder": tmp_path}[form]
    is_dino, registers = kind is not ViTModel, getattr(config, "num_register_tokens", 0)
    eps = config.layer_norm_eps
    ours = randomize(timesformer(registers, layer_scale=1.0 if is_dino else None, norm_eps=eps), seed=1)
    report = load_pretrained(ours, weights)
    assert report.layout == ("Hugging Face DINOv2" if is_dino else "Hugging Face ViT")
    assert not report.initialised
    unused = {"embeddings.mask_token"} if is_dino else {"pooler.dense.weight", "pooler.dense.bias"}
    assert report.unused.keys() == unused
    check_same_features(ours, theirs(images).last_hidden_state[:, 0], images)


def test_names_of_registers_in_metas_files(images, randomize):
    """They have timm's names otherwise, and a position of the class token."""
    theirs = randomize(
        timm.create_model("vit_small_patch14_reg4_dinov2", embed_dim=24, depth=2, num_heads=3, img_size=56)
    )
    state = theirs.state_dict()
    state["register_tokens"] = state.pop("reg_token")
    state["pos_embed"] = torch.cat([torch.zeros(1, 1, 24), state["pos_embed"]], dim=1)
    ours = randomize(timesformer(4, layer_scale=1.0), seed=1)
    report = load_pretrained(ours, {**state, "mask_token": torch.zeros(1, 24)})
    assert not report.initialised
    assert report.unused.keys() == {"mask_token"}
    check_same_features(ours, theirs.eval()(images), images)


@pytest.mark.parametrize("name", ["embeddings.register_tokens", "register_tokens", "reg_token"])
def test_registers_that_the_model_lacks_are_reported(name, randomize):
    theirs = randomize(Dinov2WithRegistersModel(CONFIGS[Dinov2WithRegistersModel]()))
    state = theirs.state_dict()
    state[name] = state.pop("embeddings.register_tokens")
    report = load_pretrained(timesformer(layer_scale=1.0), state)
    assert "unused: reg_token: 1x4x24, the model has no such tensor" in str(report)
    with pytest.raises(CheckpointError, match=r"reg_token is 1x4x24 there and 1x2x24 here"):
        load_pretrained(timesformer(2, layer_scale=1.0), state)


def test_a_classifier_of_class_token_and_mean_is_not_used(randomize):
    theirs = randomize(Dinov2ForImageClassification(Dinov2Config(**SMALL, num_labels=5)))
    ours = TimeSformer(
        img_size=56, patch_size=14, num_classes=5, num_frames=1, embed_dim=24, depth=2, num_heads=3, layer_scale=1.0,
        attention_type="space_only",
    )  # fmt: skip
    assert "unused: head.weight: 5x48, another classifier" in str(load_pretrained(ours, theirs))
