"""ViT, DeiT, CLIP and ViViT of transformers, as modules, files and folders: their outputs are kept to 1e-5.

Where one of these computes something that the model does not, the report says so.
"""

import pytest
import timm
import torch
from transformers import (
    CLIPConfig,
    CLIPForImageClassification,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    CLIPVisionModelWithProjection,
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
    ViTConfig,
    ViTForImageClassification,
    VivitConfig,
    VivitForVideoClassification,
)

from tests.models.pretrained.published import largest_difference
from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained

SMALL = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=32, patch_size=8, intermediate_size=96
)
LABELS = dict(num_labels=5)
VIVIT = dict(
    hidden_size=24, num_hidden_layers=2, num_attention_heads=3, image_size=32, intermediate_size=96, num_frames=4,
    tubelet_size=[2, 8, 8], num_labels=5,
)  # fmt: skip
TEXT = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, vocab_size=50, intermediate_size=16)
FORMS = ["module", "state dict", "folder"]


def timesformer(**options):
    defaults = dict(
        img_size=32, patch_size=8, num_classes=5, num_frames=1, embed_dim=24, depth=2, num_heads=3,
        attention_type="space_only", norm_eps=1e-12,
    )  # fmt: skip
    return TimeSformer(**defaults | options).eval()


def clip_timesformer(**options):
    return timesformer(pre_norm=True, activation="quick_gelu", norm_eps=1e-5, num_classes=0, **options)


def vivit_timesformer(**options):
    defaults = dict(
        num_frames=4, tubelet_size=2, attention_type="joint_space_time", position="learned_joint",
        activation="gelu_tanh", norm_eps=1e-6,
    )  # fmt: skip
    return timesformer(**defaults | options)


@pytest.fixture
def images():
    return torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def clips():
    return torch.randn(2, 3, 4, 32, 32, generator=torch.Generator().manual_seed(1))


def in_form(theirs, form, folder):
    theirs.save_pretrained(folder)
    return {"module": theirs, "state dict": theirs.state_dict(), "folder": folder}[form]


@torch.no_grad()
def check_same(ours, expected, clip):
    torch.testing.assert_close(ours(clip), expected, atol=1e-5, rtol=1e-5)


# ViT


@pytest.mark.parametrize("form", FORMS)
def test_a_vit_gives_its_logits_for_still_frames(form, images, randomize, tmp_path):
    theirs = randomize(ViTForImageClassification(ViTConfig(**SMALL, **LABELS)))
    for num_frames in (1, 3):
        ours = randomize(timesformer(num_frames=num_frames), seed=1)
        report = load_pretrained(ours, in_form(theirs, form, tmp_path), strict=True)
        assert report.layout == "Hugging Face ViT"
        assert report.is_exact == (form != "state dict")
        with torch.no_grad():
            check_same(ours, theirs(images).logits, images[:, :, None].expand(-1, -1, num_frames, -1, -1))


# DeiT: its distillation token is a register with the token's position, where the model has one register


@pytest.mark.parametrize("form", FORMS)
def test_a_deit_gives_its_logits_with_one_register(form, images, randomize, tmp_path):
    theirs = randomize(DeiTForImageClassification(DeiTConfig(**SMALL, **LABELS)))
    ours = randomize(timesformer(num_registers=1), seed=1)
    report = load_pretrained(ours, in_form(theirs, form, tmp_path), strict=True)
    assert report.layout == "Hugging Face DeiT"
    assert report.is_exact == (form != "state dict")
    with torch.no_grad():
        check_same(ours, theirs(images).logits, images[:, :, None])


@pytest.mark.parametrize("registers", [0, 2])
def test_without_one_register_the_distillation_token_is_left_out_and_reported(registers, images, randomize):
    theirs = randomize(DeiTForImageClassification(DeiTConfig(**SMALL, **LABELS)))
    ours = randomize(timesformer(num_registers=registers), seed=1)
    if registers:
        report = load_pretrained(ours, {**theirs.state_dict(), "deit.reg_token": torch.zeros(1, 2, 24)})
    else:
        report = load_pretrained(ours, theirs)
    assert report.unused.keys() == {"dist_token"}
    assert report.resized == {"pos_embed": "1x18x24 -> 1x17x24, 1 prefix position(s) dropped"}
    assert not report.fits
    with torch.no_grad():
        assert largest_difference(ours(images[:, :, None]), theirs(images).logits) > 1e-3


def test_of_a_deits_two_classifiers_that_of_the_class_token_is_loaded(images, randomize):
    theirs = randomize(DeiTForImageClassificationWithTeacher(DeiTConfig(**SMALL, **LABELS)))
    ours = randomize(timesformer(num_registers=1), seed=1)
    report = load_pretrained(ours, theirs)
    assert report.unused.keys() == {"distillation_classifier.weight", "distillation_classifier.bias"}
    assert report.differs == (
        "pooling the class and the distillation token, with a classifier each there, the class token here",
    )
    with torch.no_grad():
        check_same(ours, theirs(images).cls_logits, images[:, :, None])


def test_a_deit_of_timm_has_its_register_too(images, randomize):
    theirs = randomize(
        timm.create_model(
            "deit_tiny_distilled_patch16_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3,
            num_classes=5,
        )
    ).eval()  # fmt: skip
    ours = randomize(timesformer(num_registers=1, norm_eps=1e-6), seed=1)
    report = load_pretrained(ours, theirs)
    assert report.unused.keys() == {"head_dist.weight", "head_dist.bias"}
    with torch.no_grad():
        check_same(ours, theirs.head(theirs.forward_features(images)[:, 0]), images[:, :, None])


# CLIP


def clip_models():
    vision = CLIPVisionConfig(**SMALL, projection_dim=16)
    both = CLIPConfig(vision_config=vision.to_dict(), text_config=TEXT, projection_dim=16)
    return {
        "vision": (CLIPVisionModel(vision), lambda model: model),
        "with projection": (CLIPVisionModelWithProjection(vision), lambda model: model.vision_model),
        "both": (CLIPModel(both), lambda model: model.vision_model),
    }


@pytest.mark.parametrize("kind", ["vision", "with projection", "both"])
@pytest.mark.parametrize("form", FORMS)
def test_clip_gives_its_pooled_features(kind, form, images, randomize, tmp_path):
    theirs, part = clip_models()[kind]
    theirs = randomize(theirs)
    ours = randomize(clip_timesformer(), seed=1)
    report = load_pretrained(ours, in_form(theirs, form, tmp_path))
    assert report.layout == "Hugging Face CLIP"
    assert report.initialised == {"patch_embed.proj.bias": "zero, which equals the missing bias"}
    assert not any(name.startswith(("encoder", "embeddings")) for name in report.unused)
    assert ("visual_projection.weight" in report.unused) == (kind != "vision")
    assert any(name.startswith("text_model.") for name in report.unused) == (kind == "both")
    assert not report.differs
    with torch.no_grad():
        check_same(ours, part(theirs)(images).pooler_output, images[:, :, None])


def test_files_of_transformers_4_list_their_positions(images, randomize):
    theirs = randomize(CLIPVisionModel(CLIPVisionConfig(**SMALL)))
    state = {f"vision_model.{name}": tensor for name, tensor in theirs.state_dict().items()}
    state["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    ours = randomize(clip_timesformer(), seed=1)
    assert not load_pretrained(ours, state).unused
    with torch.no_grad():
        check_same(ours, theirs(images).pooler_output, images[:, :, None])


def test_clip_with_another_activation_is_refused(randomize):
    theirs = randomize(CLIPVisionModel(CLIPVisionConfig(**SMALL)))
    ours = timesformer(pre_norm=True, norm_eps=1e-5, num_classes=0)
    with pytest.raises(CheckpointError, match="activation quick_gelu, this one gelu"):
        load_pretrained(ours, theirs)
    with pytest.raises(CheckpointError, match="activation gelu, this one quick_gelu"):
        load_pretrained(clip_timesformer(), randomize(CLIPVisionModel(CLIPVisionConfig(**SMALL, hidden_act="gelu"))))


def test_the_norm_in_front_of_clips_blocks_is_reported_where_the_model_has_none(randomize):
    theirs = randomize(CLIPVisionModel(CLIPVisionConfig(**SMALL)))
    ours = timesformer(activation="quick_gelu", norm_eps=1e-5, num_classes=0)
    assert {"norm_pre.weight", "norm_pre.bias"} == load_pretrained(ours, theirs).unused.keys()


def test_a_clip_classifier_pools_otherwise_and_the_report_says_so(randomize):
    vision = CLIPVisionConfig(**SMALL)
    config = CLIPConfig(vision_config=vision.to_dict(), text_config=TEXT, **LABELS)
    theirs = randomize(CLIPForImageClassification(config))
    ours = timesformer(pre_norm=True, activation="quick_gelu", norm_eps=1e-5)
    assert "pooling the mean, without a last norm there" in str(load_pretrained(ours, theirs))


def test_clip_of_timm_with_its_own_activation_is_exact(images, randomize):
    theirs = timm.create_model(
        "vit_base_patch16_clip_quickgelu_224", img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3,
        num_classes=5,
    )  # fmt: skip
    ours = timesformer(pre_norm=True, activation="quick_gelu", norm_eps=1e-5)
    report = load_pretrained(ours, randomize(theirs))
    assert not report.differs
    with torch.no_grad():
        check_same(ours, theirs.eval()(images), images[:, :, None])


# ViViT


@pytest.mark.parametrize("form", FORMS)
def test_a_vivit_gives_its_logits(form, clips, randomize, tmp_path):
    theirs = randomize(VivitForVideoClassification(VivitConfig(**VIVIT)))
    ours = randomize(vivit_timesformer(), seed=1)
    report = load_pretrained(ours, in_form(theirs, form, tmp_path), strict=True)
    assert report.layout == "Hugging Face ViViT"
    assert report.is_exact == (form != "state dict")
    with torch.no_grad():
        check_same(ours, theirs(clips.transpose(1, 2)).logits, clips)


def test_a_vivit_is_not_taken_for_a_model_with_positions_of_one_frame(randomize):
    theirs = randomize(VivitForVideoClassification(VivitConfig(**VIVIT | dict(num_frames=8))))  # 4·16 is a square, too
    for weights in (theirs, theirs.state_dict()):
        with pytest.raises(CheckpointError, match="build the model with position='learned_joint'"):
            load_pretrained(vivit_timesformer(position="learned"), weights)


def test_gelu_in_place_of_its_approximation_is_reported(randomize):
    theirs = randomize(VivitForVideoClassification(VivitConfig(**VIVIT)))
    report = load_pretrained(vivit_timesformer(activation="gelu"), theirs)
    assert report.differs == ("activation gelu approximated by tanh there, gelu here",)
