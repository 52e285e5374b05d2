"""Linformer: a port of the paper's, and the baseline of Fibottention's comparison."""

import torch
from einops import repeat
from torch import nn

from tests.mixers.published.case import Result
from videofib.mixers import LayerSpec
from videofib.mixers.linformer import Linformer, linformer_attention

SYSTEMS = ("linformer_lucidrains", "linformer_fibottention_baseline")


def compute(case):
    return baseline(case) if "E_k" in case.state else port(case)


def port(case):
    """Its keys may equal its values and be the same in all heads: rows of our qkv that repeat."""
    config, state, (x,) = case.config, case.state, case.inputs.values()
    inner, tokens = len(state["to_q.weight"]), x.shape[1]
    layer = LayerSpec(inner, config.get("heads", 8), 0, (1, 1, tokens), qkv_bias=False)
    mixer = Linformer(layer, rank=config.get("k", 256), sharing="heads" if "proj_v" in state else "kv")
    # all heads together may be wider than tokens
    mixer.qkv, mixer.proj = nn.Linear(config["dim"], 3 * inner, bias=False), nn.Linear(inner, config["dim"])
    keys, values = (all_heads(state.get(name, state["to_k.weight"]), config) for name in ("to_k.weight", "to_v.weight"))
    ours = {"qkv.weight": torch.cat([state["to_q.weight"], keys, values])}
    ours |= {f"proj.{name}": state[f"to_out.{name}"] for name in ("weight", "bias")}
    # a model for seq_len tokens takes fewer, and leaves the last rows of E and F unused; ours takes one number
    ours |= {name: state[name][:tokens] for name in ("proj_k", "proj_v") if name in state}
    mixer.load_state_dict(ours)
    y, _ = mixer(x, layer.grid, None)
    return Result(
        {"output": y}, parameters={f"to_out.{name}": getattr(mixer.proj, name) for name in ("weight", "bias")}
    )


def all_heads(weight, config):
    return repeat(weight, "d c -> (h d) c", h=config.get("heads", 8)) if config.get("one_kv_head") else weight


def baseline(case):
    """Queries, keys and values as they are; the class token stays apart, or is projected. Queries come scaled."""
    config, (q, k, v) = case.config, case.inputs["input"]
    tokens = k.shape[2] - bool(config["separate_cls"])
    proj_k = case.state["E_k"][..., :tokens, :]
    proj_v = proj_k if config["share_kv"] else case.state["E_v"][..., :tokens, :]
    return Result({"output": linformer_attention(q, k, v, proj_k, proj_v, scale=1.0)})
