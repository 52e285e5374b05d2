"""Nyströmformer: attention of the authors' language models, and that of their T2T-ViT."""

import torch.nn.functional as F

from tests.mixers.published.case import Result
from videofib.mixers.nystrom import nystrom_attention

SYSTEMS = ("nystromformer_original", "nystromformer_t2t")


def compute(case):
    return t2t(case) if "qkv.weight" in case.state else attention(case)


def attention(case):
    """Queries, keys and values as they are."""
    q, k, v = case.inputs["input"]
    out = nystrom_attention(q, k, v, **options(case.config))
    weights = [tensor for name, tensor in case.state.items() if name.endswith("conv.weight")]
    return Result({"output": out + sum(along_tokens(v, weight) for weight in weights)})


def t2t(case):
    """One head of another width than tokens have; its scale is that of the tokens' width, and v is added back."""
    config, state, (x,) = case.config, case.state, case.inputs.values()
    qkv = F.linear(x, state["qkv.weight"], state.get("qkv.bias"))
    q, k, v = qkv.unsqueeze(1).chunk(3, dim=-1)
    out = nystrom_attention(q, k, v, **options(config), scale=(config["dim"] // config["num_heads"]) ** -0.5)
    if "conv.weight" in state:
        out = out + along_tokens(v, state["conv.weight"])
    return Result({"output": (v + F.linear(out, state["proj.weight"], state["proj.bias"])).squeeze(1)})


def options(config):
    """The language models' option is named in ``init``, T2T-ViT's in ``init_option``."""
    initial = config.get("init") or config.get("init_option") or "original"
    return {
        "num_landmarks": config["num_landmarks"],
        "iterations": config.get("inverse_iterations", 6),
        "initial": "batch" if initial.startswith("original") else "matrix",
    }


def along_tokens(v, weight):
    """(B, H, S, D) with kernels (H, 1, K, 1)."""
    return F.conv2d(v, weight, padding=(weight.shape[2] // 2, 0), groups=v.shape[1])
