"""Efficient attention: the authors' module over feature maps, and the baseline of Fibottention's comparison."""

import torch
from einops import rearrange

from tests.mixers.published.case import Result
from videofib.mixers import LayerSpec
from videofib.mixers.efficient import EfficientAttention, efficient_attention

SYSTEMS = ("efficient_attention_official", "efficient_attention_fibottention_baseline")


def compute(case):
    if not case.state:
        return Result({"output": efficient_attention(*case.inputs["input"])})
    return module(case)


def module(case):
    """Convolutions of one pixel are our linear layers; the residual is inside."""
    config, state, (x,) = case.config, case.state, case.inputs.values()
    height, width = x.shape[-2:]
    layer = LayerSpec(config["in_channels"], config["head_count"], 0, (1, height, width))
    mixer = EfficientAttention(layer, key_width=config["key_channels"], value_width=config["value_channels"])
    projections = ("queries", "keys", "values")
    ours = {"qkv.weight": torch.cat([state[f"{name}.weight"].flatten(1) for name in projections])}
    ours["qkv.bias"] = torch.cat([state[f"{name}.bias"] for name in projections])
    ours |= {"proj.weight": state["reprojection.weight"].flatten(1), "proj.bias": state["reprojection.bias"]}
    mixer.load_state_dict(ours)
    y, _ = mixer(rearrange(x, "b c h w -> b (h w) c"), layer.grid, None)
    y = x + rearrange(y, "b (h w) c -> b c h w", h=height)
    return Result({"output": y}, parameters={"reprojection.bias": mixer.proj.bias})
