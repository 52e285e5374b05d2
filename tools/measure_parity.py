"""The largest difference of logits from those of transformers and timm, at full size and with the same random weights.

python tools/measure_parity.py

Needs the test extra (transformers). For the figures of docs/fidelity.md; the tests compare small models.
"""

import timm
import torch
from torch import Tensor, nn
from transformers import (
    TimesformerConfig,
    TimesformerForVideoClassification,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
)

from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained
from videofib.models.timesformer import SIZES

IMAGE_MODELS = {  # timm's name -> size, and the options that make the model the same
    "vit_tiny_patch16_224": ("tiny", {}),
    "vit_small_patch16_224": ("small", {}),
    "vit_base_patch16_224": ("base", {}),
    "vit_large_patch16_224": ("large", {}),
    "vit_base_patch32_224": ("base", dict(patch_size=32)),
    "deit_base_patch16_224": ("base", {}),
    "deit3_base_patch16_224": ("base", dict(layer_scale=1.0)),
    "vit_base_patch16_clip_224": ("base", dict(pre_norm=True, norm_eps=1e-5)),
    "vit_small_patch14_reg4_dinov2": ("small", dict(patch_size=14, layer_scale=1.0, num_registers=4)),
    "vit_base_patch14_dinov2": ("base", dict(patch_size=14, layer_scale=1.0)),
}


def perturbed(model: nn.Module) -> nn.Module:
    """The model with biases, scales and parameters that start at zero perturbed, so that all of them matter."""
    for p in model.parameters():
        if p.ndim == 1 or not p.any():
            p.add_(0.02 * torch.randn(p.shape))
    return model.eval()


def report(name: str, found: Tensor, expected: Tensor) -> None:
    largest = (found - expected).abs().max().item()
    print(f"{name:62} largest difference {largest:.1e}, logits up to {expected.abs().max().item():.1f}", flush=True)


def timesformers() -> None:
    for attention_type in ("divided_space_time", "joint_space_time", "space_only"):
        for size, frames in ((224, 8), (224, 5), (224, 7), *([(448, 3)] if attention_type.startswith("div") else [])):
            config = TimesformerConfig(image_size=size, attention_type=attention_type, num_labels=400)
            theirs = perturbed(TimesformerForVideoClassification(config))
            ours = TimeSformer(img_size=size, attention_type=attention_type).eval()
            load_pretrained(ours, theirs, strict=attention_type != "space_only")
            config.num_frames = frames  # their divided block takes T from here, not from its input
            clip = torch.randn(1, frames, 3, size, size)
            if attention_type == "space_only":  # theirs leaves out the published mean over frames
                tokens = theirs.timesformer.encoder(theirs.timesformer.embeddings(clip))[0].mean(0, keepdim=True)
                expected = theirs.classifier(theirs.timesformer.layernorm(tokens)[:, 0])
            else:
                expected = theirs(clip).logits
            report(f"TimeSformer {attention_type}, {frames} x {size}", ours(clip.transpose(1, 2)), expected)


def image_models() -> None:
    for name, (size, options) in IMAGE_MODELS.items():
        theirs = perturbed(timm.create_model(name, num_classes=400, img_size=224))
        image = torch.randn(1, 3, 224, 224)
        for attention_type in ("space_only", "divided_space_time"):
            ours = TimeSformer(**SIZES[size], num_frames=2, attention_type=attention_type, **options).eval()
            load_pretrained(ours, theirs)
            still = image[:, :, None].expand(-1, -1, 2, -1, -1)
            report(f"{name} {attention_type}, still clip", ours(still), theirs(image))


def videomae() -> None:
    theirs = perturbed(VideoMAEForVideoClassification(VideoMAEConfig(num_labels=400)))
    ours = TimeSformer(
        num_frames=16, tubelet_size=2, class_token=False, pooling="mean", position="sinusoid",
        attention_type="joint_space_time", norm_eps=1e-12,
    ).eval()  # fmt: skip
    load_pretrained(ours, theirs)
    clip = torch.randn(1, 3, 16, 224, 224)
    expected = theirs(clip.transpose(1, 2)).logits
    report("VideoMAE-B, 16 x 224", ours(clip), expected)
    ours.norm.eps = theirs.fc_norm.eps
    report("VideoMAE-B, 16 x 224, last norm's epsilon as theirs", ours(clip), expected)


def main() -> None:
    torch.manual_seed(0)
    with torch.no_grad():
        timesformers()
        image_models()
        videomae()


if __name__ == "__main__":
    main()
