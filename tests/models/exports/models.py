"""Tiny models with random weights, whose logits differ from clip to clip by about 1."""

import torch

from videofib.models import TimeSformer

CLIP = (3, 4, 32, 24)
TINY = dict(img_size=(32, 24), patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=2, num_heads=3)
KINDS = {  # attention type -> which of its attentions may be sparse
    "joint_space_time": ("joint_attention",),
    "divided_space_time": ("space_attention", "time_attention"),
    "space_only": ("space_attention",),
}


def tiny(kind, *, sparse=True, class_token=True, **fibottention):
    """A TimeSformer in evaluation mode."""
    options = dict.fromkeys(KINDS[kind], "fibottention") if sparse else {}
    if not class_token:
        options |= {"class_token": False, "pooling": "mean"}
    mixers = {"fibottention": {"w_min": 2, **fibottention}}
    model = TimeSformer(**TINY | options, attention_type=kind, mixer_options=mixers).eval()
    return randomized(model)


def randomized(model):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model
