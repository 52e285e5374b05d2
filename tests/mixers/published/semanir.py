"""SemanIR's attention (arXiv 2405.20008), by a reference from the paper's figure, as there is no published code."""

import torch

from tests.mixers.published.case import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.semanir import STATE, KeySemantics

SYSTEMS = ("semanir",)


def compute(case: Case) -> Result:
    args = case.config["args"]
    layer = LayerSpec(
        dim=args["dim"],
        num_heads=args["num_heads"],
        num_prefix_tokens=args.get("num_prefix_tokens", 0),
        grid=tuple(case.config["grid"]),
        index=1,  # the stage begins with another block, whose input is not this one's
        qkv_bias="qkv.bias" in case.state,
    )
    model = KeySemantics(layer, k=args["k"], similarity=args.get("similarity", "dot"))
    model.load_state_dict(case.state)
    keys = model.key_sets(torch.from_numpy(case.arrays["__stage_input"]))
    assert torch.equal(keys.sort().values, torch.from_numpy(case.arrays["__dictionary"]))
    y, _ = model(case.inputs["input"], layer.grid, {STATE: keys})
    return Result({"output": y}, dict(model.named_parameters()))
