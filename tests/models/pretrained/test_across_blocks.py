"""Weights for models whose blocks use the attention of earlier ones: SkipAt's, and those of a ViT."""

import json
import re

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from tests.mixers.test_published import GOLDEN
from tests.models.pretrained.published import largest_difference
from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.skipat import to_blocks

SIZES = dict(img_size=32, patch_size=8, num_classes=5, num_frames=1, embed_dim=16, depth=6, num_heads=2)
PARTS = {"fc1": "linear1.0", "dwconv": "dwconv.0", "fc2": "linear2.0", "eca": "eca.conv"}
SKIPPED = [1, 2, 4]


def ours(**options):
    model = TimeSformer(**{**SIZES, "attention_type": "space_only", "skip_attention": SKIPPED, **options})
    return model.eval()


def vit(patch_size=8):
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=32, patch_size=patch_size, num_classes=5, embed_dim=16, depth=6, num_heads=2
    ).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape))
    return model


def official(model, networks=6):
    """The state dict that SkipAt's code would save: also what nothing reads."""
    torch.manual_seed(1)
    state = vit().state_dict()
    for name, tensor in model.state_dict().items():
        if match := re.fullmatch(r"blocks\.(\d+)\.skip\.(\w+)\.(weight|bias)", name):
            number = 1 + model.across.blocks.index(int(match[1]))
            state[f"param_{number}.{PARTS[match[2]]}.{match[3]}"] = 0.2 * torch.randn_like(tensor)
    for number in range(len(model.across.blocks) + 1, networks + 1):
        state |= {
            name.replace("param_1.", f"param_{number}."): torch.randn_like(tensor)
            for name, tensor in list(state.items())
            if name.startswith("param_1.")
        }
    return state


def test_official_weights_fit_and_what_nothing_reads_is_dropped_and_reported():
    model = ours()
    state = official(model)
    report = load_pretrained(model, state, strict=True)
    assert report.layout == "SkipAt"
    assert report.fits
    assert set(report.dead) == {
        *(name for name in state if re.match(r"blocks\.[124]\.(norm1|attn)\.", name)),
        *(name for name in state if re.match(r"param_[456]\.", name)),
    }
    assert "dropped: blocks.*.attn.qkv.weight (3): 48x16, which blocks that skip attention do not read" in str(report)
    for name, tensor in to_blocks(state, SKIPPED).items():
        if name in model.state_dict():
            assert torch.equal(model.state_dict()[name], tensor)


def test_an_image_model_serves_the_frames_of_clips():
    image, clips = ours(), ours(num_frames=3, attention_type="joint_space_time")
    state = official(image)
    load_pretrained(image, state)
    report = load_pretrained(clips, state)
    assert set(report.initialised) == {"time_embed"}
    deeper = ours(
        num_frames=3,
        attention_type="joint_space_time",
        skip_attention={"blocks": SKIPPED, "time_kernel": 3},
    )
    load_pretrained(deeper, state)
    video = torch.randn(1, 3, 3, 32, 32)
    with torch.no_grad():
        assert largest_difference(deeper(video), clips(video)) < 1e-5  # the kernel's centre is the image model's
    divided = ours(num_frames=3, attention_type="divided_space_time")
    report = load_pretrained(divided, state)
    assert report.dead
    with torch.no_grad():  # attention over time is silent, in skipped blocks, too
        still = video[:, :, :1].expand(-1, -1, 3, -1, -1)
        assert largest_difference(divided(still), image(still[:, :, :1])) < 1e-5


def test_weights_for_other_blocks_are_refused():
    with pytest.raises(CheckpointError, match="set skip_attention to their indices"):
        load_pretrained(ours(skip_attention=None), official(ours()))
    few = official(ours(skip_attention=[1, 2]), networks=2)
    with pytest.raises(CheckpointError, match=r"networks for 2 blocks .* this model skips \[1, 2, 4\]"):
        load_pretrained(ours(), few)


def test_weights_of_a_vit_start_a_model_that_skips():
    model, source = ours(), vit()
    before = model.state_dict()["blocks.1.skip.fc1.weight"].clone()
    report = load_pretrained(model, source)
    assert {re.sub(r"\d+", "*", name) for name in report.initialised} == {
        f"blocks.*.skip.{part}" for part in ("fc*.weight", "fc*.bias", "dwconv.weight", "dwconv.bias", "eca.weight")
    }
    assert {name for name in report.unused if ".attn." in name} == {
        f"blocks.{i}.attn.{part}.{kind}" for i in SKIPPED for part in ("qkv", "proj") for kind in ("weight", "bias")
    }
    assert torch.equal(model.state_dict()["blocks.1.skip.fc1.weight"], before)


def test_weights_of_a_vit_start_less_attention_with_its_values():
    model, source = ours(skip_attention=None, less_attention={"space": 2}, patch_size=16), vit(patch_size=16)
    report = load_pretrained(model, source)
    assert {re.sub(r"\d+", "*", name) for name in report.initialised} == {
        f"blocks.*.attn.{part}.{kind}" for part in ("theta", "psi") for kind in ("weight", "bias")
    }
    assert not report.unused
    assert report.resized["blocks.2.attn.v.weight"] == "48x16 -> 16x16, values without queries and keys"
    for index in range(2, 6):
        block = source.blocks[index].attn
        assert torch.equal(model.blocks[index].attn.v.weight, block.qkv.weight[32:])
        assert torch.equal(model.blocks[index].attn.v.bias, block.qkv.bias[32:])


@pytest.mark.parametrize(
    "options", [dict(skip_attention=SKIPPED), dict(less_attention={"space": 2, "time": 1})], ids=str
)
def test_own_weights_come_back(options):
    one, two = (
        ours(
            **{
                "skip_attention": None,
                "patch_size": 16,
                "attention_type": "divided_space_time",
                "num_frames": 2,
                **options,
            }
        )
        for _ in range(2)
    )
    report = load_pretrained(two, one, strict=True)
    assert report.is_exact
    other = ours(skip_attention=[1, 2], attention_type="divided_space_time", num_frames=2, patch_size=16)
    with pytest.raises(CheckpointError, match="belong to another model"):
        load_pretrained(other, one)


@pytest.mark.parametrize("name", ["skipat_model_4x4", "skipat_model_4x4_gaps"])
def test_the_official_network_is_ours(name):
    path = GOLDEN / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"no golden files in {GOLDEN}")
    with np.load(path) as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "__config"}
        args = json.loads(str(file["__config"]))["args"]
    state = {name.removeprefix("model."): value for name, value in arrays.items() if name.startswith("model.")}
    sizes = {key: args[key] for key in ("img_size", "patch_size", "num_classes", "embed_dim", "depth", "num_heads")}
    model = ours(**sizes, skip_attention={"blocks": args["skip_indices"], "source": "released"})
    load_pretrained(model, state, strict=True)
    with torch.no_grad():
        assert largest_difference(model(arrays["__input"][:, :, None]), arrays["__output"]) < 1e-5
