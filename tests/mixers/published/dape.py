"""DAPE V2: scores to scores, or a layer of attention with that module as ``dape`` and its weights packed as timm's."""

from tests.mixers.published import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.dape import DapeAttention

SYSTEMS = ("dape_v2",)
OF_A_BIAS = {"slopes": "alibi", "bias_p": "kerple", "init_L": "fire"}  # buffers and parameters that give it away


def compute(case: Case) -> Result:
    is_layer = "qkv.weight" in case.state
    prefix = "dape." if is_layer else ""
    first = case.state[f"{prefix}mlp2.0.weight"]
    heads, causal = len(case.state[f"{prefix}mlp2.2.bias"]), is_causal(case.config)
    bias = next((kind for name, kind in OF_A_BIAS.items() if f"{prefix}{name}" in case.state), "none")
    scores_or_tokens = case.inputs["input"]
    grid = (1, 1, scores_or_tokens.shape[-2])
    layer = LayerSpec(
        dim=scores_or_tokens.shape[-1] if is_layer else heads,
        num_heads=heads,
        num_prefix_tokens=0,
        grid=grid,
        qkv_bias="qkv.bias" in case.state,
    )
    options = dict(width=first.shape[0], kernel=first.shape[-1], position_bias=bias, causal=causal)
    mixer = DapeAttention(layer, **options)
    module = mixer if is_layer else mixer.dape
    module.load_state_dict(case.state)
    output = module(scores_or_tokens, grid, None)[0] if is_layer else module(scores_or_tokens, 0, grid)
    return Result({"output": output}, dict(module.named_parameters()))


def is_causal(config) -> bool:
    """The published modules are; those derived from them say of scores in their note that they are not."""
    return config.get("causal", "DERIVED" not in config["note"])
