"""LaViT's equations (arXiv 2406.00427): a reference of our own, as no official code is public."""

import torch
from torch import Tensor, nn

from tests.mixers.published.case import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.less_attention import HandingAttention, LessAttention, diagonality
from videofib.models.blocks import Block, BlockSpec

SYSTEMS = ("lavit",)


def compute(case: Case) -> Result:
    args = case.config.get("args")
    if args is None:
        return loss(case)
    layer = LayerSpec(args["dim"], args["num_heads"], 0, (1, 1, args["num_tokens"]))
    return stack(case, layer) if "less" in args else single(case, layer)


def single(case: Case, layer: LayerSpec) -> Result:
    ours = LessAttention(layer)
    ours.load_state_dict(case.state)
    output, scores = ours(torch.as_tensor(case.arrays["__tokens"]), layer.grid, case.inputs["input"])
    close(scores, case.arrays["__scores_after"])
    return Result({"output": output}, dict(ours.named_parameters()))


def stack(case: Case, layer: LayerSpec) -> Result:
    args = case.config["args"]
    spec = BlockSpec(layer.dim, args.get("mlp_ratio", 4.0), 0.0, case.config["norm_eps"], None)
    blocks = nn.ModuleList(
        Block(HandingAttention(layer) if index < args["vanilla"] else LessAttention(layer), spec, 0.0)
        for index in range(args["vanilla"] + args["less"])
    )
    renamed = {theirs: ours_of(theirs) for theirs in case.state}
    blocks.load_state_dict({renamed[name]: value for name, value in case.state.items()})
    x, memory = case.inputs["input"], {}
    for index, block in enumerate(blocks):
        x, memory = block(x, layer.grid, memory)
        close(memory["attn"], case.arrays[f"__scores{index}"])
    own = dict(blocks.named_parameters())
    return Result({"output": x}, {theirs: own[name] for theirs, name in renamed.items()})


def loss(case: Case) -> Result:
    scores = case.inputs["input"]
    found = {
        f"__{kind}_{sign}": diagonality(maps, printed=sign == "printed")
        for kind, maps in (("softmax", scores.softmax(-1)), ("raw", scores))
        for sign in ("printed", "intended")
    }
    for name, value in found.items():
        if name in case.arrays:
            close(value, case.arrays[name])
    return Result({"output": found["__softmax_intended"]})


def ours_of(name: str) -> str:
    """attn.2.theta.weight -> 2.attn.theta.weight."""
    part, index, rest = name.split(".", 2)
    return f"{index}.{part}.{rest}"


def close(found: Tensor, expected: object) -> None:
    torch.testing.assert_close(found, torch.as_tensor(expected), rtol=5e-6, atol=5e-5)
