"""The same weights give the same numbers here as in transformers and timm."""

import pytest
import timm
import torch
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from tests.pairs import every_pair
from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained

SIZES = {
    "narrow": dict(img_size=32, patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=3, num_heads=3),
    "wide": dict(img_size=64, patch_size=16, num_classes=11, num_frames=8, embed_dim=96, depth=2, num_heads=4),
}
TYPES = ["divided_space_time", "joint_space_time", "space_only"]


def hugging_face(size, attention_type):
    options = SIZES[size]
    return TimesformerForVideoClassification(
        TimesformerConfig(
            image_size=options["img_size"],
            patch_size=options["patch_size"],
            num_frames=options["num_frames"],
            hidden_size=options["embed_dim"],
            num_hidden_layers=options["depth"],
            num_attention_heads=options["num_heads"],
            intermediate_size=4 * options["embed_dim"],
            num_labels=options["num_classes"],
            attention_type=attention_type,
        )
    )


def random_clip(frames, size, seed=1):
    return torch.randn(2, 3, frames, size, size, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(
    ("size", "attention_type", "num_frames", "token_order"), every_pair(SIZES, TYPES, [4, 3, 7], ["hwt", "thw"])
)
def test_dense_logits_are_those_of_transformers(size, attention_type, num_frames, token_order, randomize):
    theirs = randomize(hugging_face(size, attention_type))
    ours = TimeSformer(**SIZES[size], attention_type=attention_type, token_order=token_order).eval()
    assert load_pretrained(ours, theirs).is_exact == (attention_type != "space_only")
    theirs.config.num_frames = num_frames  # their divided block takes T from here, not from its input
    video = random_clip(num_frames, SIZES[size]["img_size"])
    with torch.no_grad():
        if attention_type == "space_only":  # theirs leaves out the published mean over frames
            frames = theirs.timesformer.encoder(theirs.timesformer.embeddings(video.transpose(1, 2)))[0]
            mean = frames.unflatten(0, (2, num_frames)).mean(1)
            expected = theirs.classifier(theirs.timesformer.layernorm(mean)[:, 0])
        else:
            expected = theirs(video.transpose(1, 2)).logits
        torch.testing.assert_close(ours(video), expected, atol=1e-5, rtol=0)


IMAGE_MODELS = {  # timm's name -> what the model here needs to be the same
    "vit_tiny_patch16_224": {},
    "deit_tiny_patch16_224": {},
    "deit3_small_patch16_224": dict(layer_scale=1.0),
    "vit_base_patch16_clip_224": dict(pre_norm=True, norm_eps=1e-5),
    "vit_small_patch14_reg4_dinov2": dict(layer_scale=1.0, num_registers=4),
    "vit_medium_patch16_reg4_gap_256": dict(layer_scale=1.0, num_registers=4, class_token=False, pooling="mean"),
    "vit_base_patch32_224": dict(qk_norm=True),
}


@pytest.mark.parametrize("attention_type", ["divided_space_time", "space_only"])
@pytest.mark.parametrize("name", IMAGE_MODELS)
def test_a_still_clip_has_the_logits_of_the_image_model(name, attention_type, randomize):
    small = dict(img_size=64, patch_size=16, embed_dim=24, depth=3, num_heads=3, num_classes=5)
    options = {"qk_norm": True} if IMAGE_MODELS[name].get("qk_norm") else {}
    theirs = randomize(timm.create_model(name, **small, **options))
    ours = TimeSformer(**small, attention_type=attention_type, **IMAGE_MODELS[name]).eval()
    report = load_pretrained(ours, theirs)
    assert not report.unused
    assert not report.differs
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = theirs(image)
        found = ours(image[:, :, None].expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def videomae(randomize):
    config = VideoMAEConfig(
        image_size=32, patch_size=8, num_frames=4, tubelet_size=2, hidden_size=24, num_hidden_layers=3,
        num_attention_heads=3, intermediate_size=96, num_labels=5,
    )  # fmt: skip
    return randomize(VideoMAEForVideoClassification(config))


@pytest.mark.parametrize("token_order", ["hwt", "thw"])
def test_videomae_has_the_same_logits(token_order, randomize):
    theirs = videomae(randomize)
    ours = TimeSformer(
        **SIZES["narrow"], attention_type="joint_space_time", token_order=token_order, tubelet_size=2,
        class_token=False, pooling="mean", position="sinusoid", norm_eps=1e-12,
    ).eval()  # fmt: skip
    assert load_pretrained(ours, theirs).differs == ("last norm's epsilon 1e-05 there, 1e-12 here",)
    ours.norm.eps = theirs.fc_norm.eps
    assert load_pretrained(ours, theirs).is_exact
    video = random_clip(4, 32)
    with torch.no_grad():
        torch.testing.assert_close(ours(video), theirs(video.transpose(1, 2)).logits, atol=1e-5, rtol=1e-5)


def test_videomae_in_its_authors_names_is_the_same(randomize):
    theirs = videomae(randomize).state_dict()
    official = {}
    for name, tensor in theirs.items():
        name = name.removeprefix("videomae.").replace("encoder.layer.", "blocks.")
        for there, here in (
            ("embeddings.patch_embeddings.projection", "patch_embed.proj"),
            ("attention.output.dense", "attn.proj"),
            ("attention.attention.query.bias", "attn.q_bias"),
            ("attention.attention.value.bias", "attn.v_bias"),
            ("intermediate.dense", "mlp.fc1"),
            ("output.dense", "mlp.fc2"),
            ("layernorm_before", "norm1"),
            ("layernorm_after", "norm2"),
            ("classifier", "head"),
        ):
            name = name.replace(there, here)
        if "attention.attention" not in name:
            official[name] = tensor
    for i in range(3):
        parts = [
            theirs[f"videomae.encoder.layer.{i}.attention.attention.{p}.weight"] for p in ("query", "key", "value")
        ]
        official[f"blocks.{i}.attn.qkv.weight"] = torch.cat(parts)
    options = dict(
        **SIZES["narrow"], attention_type="joint_space_time", tubelet_size=2, class_token=False, pooling="mean",
        position="sinusoid",
    )  # fmt: skip
    models = []
    for state in (theirs, official, {f"encoder.{name}": tensor for name, tensor in official.items()}):
        models.append(TimeSformer(**options))
        report = load_pretrained(models[-1], state)
        assert report.fits
    for name, tensor in models[0].state_dict().items():
        assert torch.equal(tensor, models[1].state_dict()[name]), name
        assert torch.equal(tensor, models[2].state_dict()[name]), name


@pytest.mark.parametrize("part", ["key.weight", "value.bias"])
@pytest.mark.parametrize("shape", [None, (7, 24)])
def test_videomae_with_a_part_missing_is_refused(part, shape, randomize):
    state = videomae(randomize).state_dict()
    name = f"videomae.encoder.layer.1.attention.attention.{part}"
    del state[name]
    if shape:
        state[name] = torch.zeros(shape)
    ours = TimeSformer(**SIZES["narrow"], tubelet_size=2, attention_type="joint_space_time")
    with pytest.raises(CheckpointError, match=rf"layer.1.attention.attention.{part} is missing, or of another shape"):
        load_pretrained(ours, state)
