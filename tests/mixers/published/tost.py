"""ToST: token statistics, blocks, whole networks and the causal form (RobinWu218/ToST, which contains XCiT's code)."""

from tests.mixers.published.case import Case, Result
from tests.mixers.published.xcit import Network, class_attention_block, class_of, computed, grid_of, sizes_of
from videofib.mixers import LayerSpec
from videofib.mixers.tost import TokenStatistics
from videofib.models.blocks import Block, BlockSpec

SYSTEMS = ("tost",)
CAUSAL = {"c_attn": "qkv", "c_proj": "to_out.0"}


def compute(case: Case) -> Result:
    kind, args, x = class_of(case), case.config["args"], case.inputs["input"]
    if kind == "CausalSelfAttention_TSSA":
        return causal(case)
    if kind == "AttentionTSSA":
        layer, _ = sizes_of(case, args["dim"], x.shape[1])
        return computed(case, TokenStatistics(layer), grid_of(case), None)
    if kind == "Block":
        return computed(case, block(*sizes_of(case, args["dim"], x.shape[1])), grid_of(case), {})
    if kind == "ClassAttentionBlock":
        return class_attention_block(case)
    return computed(case, Network(block, case))


def block(layer: LayerSpec, spec: BlockSpec) -> Block:
    return Block(TokenStatistics(layer), spec, 0.0)


def causal(case: Case) -> Result:
    args = case.config["args"]
    layer = LayerSpec(args["n_embd"], args["n_head"], 0, (args["block_size"], 1, 1), qkv_bias=args["bias"])
    model = TokenStatistics(layer, causal=True)
    names = {name: renamed(name) for name in case.state}
    state = {ours: case.state[name] for name, ours in names.items()}
    if not args["bias"]:  # then the last projection has none, either
        state["to_out.0.bias"] = model.to_out[0].bias.detach().zero_()
    model.load_state_dict(state)
    y, _ = model(case.inputs["input"], (case.inputs["input"].shape[1], 1, 1), None)
    parameters = dict(model.named_parameters())
    return Result({"output": y}, {name: parameters[ours] for name, ours in names.items() if ours in parameters})


def renamed(name: str) -> str:
    part, dot, rest = name.partition(".")
    return CAUSAL.get(part, part) + dot + rest
