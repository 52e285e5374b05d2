"""Performer: a port of the paper's."""

import torch
from torch import nn

from tests.mixers.published.case import Result
from videofib.mixers import LayerSpec
from videofib.mixers.performer import Performer

SYSTEMS = ("performer_lucidrains",)


def compute(case):
    config, state, (x,) = case.config, case.state, case.inputs.values()
    projection = state["fast_attention.projection_matrix"]
    inner = len(state["to_q.weight"])
    layer = LayerSpec(inner, config["heads"], 0, (1, 1, x.shape[1]), qkv_bias="to_q.bias" in state)
    kernel = "relu" if config["generalized_attention"] else "softmax"
    mixer = Performer(layer, features=len(projection), kernel=kernel).eval()
    # all heads together may be wider than tokens
    mixer.qkv, mixer.proj = nn.Linear(config["dim"], 3 * inner, bias=layer.qkv_bias), nn.Linear(inner, config["dim"])
    ours = {f"proj.{name}": state[f"to_out.{name}"] for name in ("weight", "bias")}
    for name in ("weight", "bias") if layer.qkv_bias else ("weight",):
        ours[f"qkv.{name}"] = torch.cat([state[f"to_{part}.{name}"] for part in "qkv"])
    mixer.load_state_dict({**ours, "projection_matrix": projection})
    y, _ = mixer(x, layer.grid, None)
    return Result(
        {"output": y}, parameters={f"to_out.{name}": getattr(mixer.proj, name) for name in ("weight", "bias")}
    )
