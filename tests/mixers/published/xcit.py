"""XCiT: attention, local interaction, blocks, positions and whole networks (``xcit.py`` of facebookresearch/xcit)."""

from tests.mixers.published.case import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.xcit import CrossCovarianceAttention

SYSTEMS = ("xcit",)


def compute(case: Case) -> Result:
    return {"XCA": attention}[case.config["cls"].partition(":")[2]](case)


def attention(case: Case) -> Result:
    args = case.config["args"]
    x = case.inputs["input"]
    layer = LayerSpec(
        args["dim"], args.get("num_heads", 8), 0, (1, 1, x.shape[1]), qkv_bias=args.get("qkv_bias", False)
    )
    model = CrossCovarianceAttention(layer)
    model.load_state_dict(case.state)
    y, _ = model(x, layer.grid, None)
    return Result({"output": y}, dict(model.named_parameters()))
