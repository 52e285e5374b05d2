"""XCiT's weights, of timm and in the official layout, in a TimeSformer with its parts: outputs are kept to 1e-5."""

import json
import re

import numpy as np
import pytest
import torch
from timm.models.xcit import Xcit

from tests.mixers.test_published import GOLDEN
from tests.models.pretrained.published import largest_difference
from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained

PARTS = dict(stem="conv", position="fourier", local_interaction="space", pooling="class_attention", layer_scale=1.0)


def ours(**options):
    defaults = dict(img_size=32, patch_size=8, num_classes=5, num_frames=1, embed_dim=16, depth=2, num_heads=4)
    kinds = dict(attention_type="space_only", space_attention="xcit")
    return TimeSformer(**defaults | kinds | PARTS | options).eval()


def theirs(**options):
    torch.manual_seed(0)
    defaults = dict(img_size=32, patch_size=8, num_classes=5, embed_dim=16, depth=2, num_heads=4, tokens_norm=True)
    model = Xcit(**defaults | options).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.2 * torch.randn(p.shape))
        for name, buffer in model.named_buffers():
            if name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
            elif name.endswith("running_mean"):
                buffer.normal_(std=0.2)
    return model


def in_official_layout(state):
    """As XCiT's own code names them: the position's module, and class attention with one projection."""
    state = {re.sub("^pos_embed", "pos_embeder", name): tensor for name, tensor in state.items()}
    for name in [name for name in state if re.fullmatch(r"cls_attn_blocks\..*attn\.q\.(weight|bias)", name)]:
        parts = [state.pop(name.replace(".q.", f".{part}.")) for part in "qkv"]
        state[name.replace(".q.", ".qkv.")] = torch.cat(parts)
    return state


@pytest.mark.parametrize("form", ["module", "timm's state dict", "official state dict"])
@pytest.mark.parametrize("size", [(32, 32), (24, 40)], ids=str)
def test_outputs_are_kept(form, size):
    source, image = theirs(), torch.randn(2, 3, *size)
    forms = {
        "module": source,
        "timm's state dict": source.state_dict(),
        "official state dict": {"model": in_official_layout(source.state_dict())},
    }
    model = ours()
    report = load_pretrained(model, forms[form])
    assert report.fits, report
    assert report.layout == "XCiT"
    with torch.no_grad():
        assert largest_difference(model(image[:, :, None]), source(image)) < 1e-5


def test_a_clip_is_several_frames_of_the_image_model():
    source, model = theirs(), ours(num_frames=3)
    load_pretrained(model, source)
    with torch.no_grad():
        clip = torch.randn(1, 3, 1, 32, 32).expand(-1, -1, 3, -1, -1)
        assert largest_difference(model(clip), source(clip[:, :, 0])) < 1e-5


def test_another_norm_of_class_attention_is_refused():
    with pytest.raises(CheckpointError, match="second norm is of the class token alone"):
        load_pretrained(ours(), theirs(tokens_norm=False))


def test_weights_of_a_vit_start_without_xcits_own_parts():
    vit = TimeSformer(img_size=32, patch_size=8, num_classes=5, num_frames=1, embed_dim=16, depth=2, num_heads=4,
                      attention_type="space_only")  # fmt: skip
    model = ours(stem="linear", position="learned", pooling="mean", layer_scale=None)
    report = load_pretrained(model, vit.state_dict())
    fresh = {re.sub(r"\d+", "*", name) for name in report.initialised}
    local = {"norm.weight", "norm.bias", *(f"interaction.conv{i}.{kind}" for i in "**" for kind in ("weight", "bias"))}
    local |= {
        f"interaction.bn.{kind}" for kind in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    }
    assert fresh == {"blocks.*.attn.temperature"} | {f"blocks.*.local.{name}" for name in local}


@pytest.mark.skipif(not (GOLDEN / "xcit_model_2x3.npz").exists(), reason=f"no golden files in {GOLDEN}")
def test_the_official_network_is_ours():
    with np.load(GOLDEN / "xcit_model_2x3.npz") as file:
        arrays = {name: torch.from_numpy(file[name]) for name in file.files if name != "__config"}
        args = json.loads(str(file["__config"]))["args"]
    state = {name.removeprefix("model."): value for name, value in arrays.items() if name.startswith("model.")}
    options = {name: args[name] for name in ("embed_dim", "depth", "num_heads", "num_classes", "patch_size")}
    model = ours(img_size=tuple(arrays["__input"].shape[2:]), **options, layer_scale=args.get("eta", 1.0))
    report = load_pretrained(model, state)
    assert report.fits, report
    with torch.no_grad():
        assert largest_difference(model(arrays["__input"][:, :, None]), arrays["__output"]) < 1e-5
