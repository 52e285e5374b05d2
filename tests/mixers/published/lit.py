"""LIT's attention with relative positions, its deformable merging, and its stages of blocks (arXiv 2105.14217)."""

import torch
from torch import Tensor, nn

from tests.mixers.published.case import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.lit import RelativePositionAttention, offset_rows
from videofib.models.blocks import Block, BlockSpec
from videofib.models.deformable_merging import DeformableMerging

SYSTEMS = ("lit_relpos", "lit_stage", "lit_merge")
NORM_EPS = 1e-5
MLP_RATIO = 4.0  # where the arguments name none
INDEX = "relative_position_index"
MERGING_TOLERANCE = 1e-5  # the slope of bilinear samples jumps between tokens, which magnifies rounding of offsets


class Stage(nn.Module):
    """Blocks, then merging where the stage has it."""

    def __init__(self, layer: LayerSpec, depth: int, *, mlp_ratio: float, has_msa: bool, downsample: bool):
        super().__init__()
        spec = BlockSpec(layer.dim, mlp_ratio, drop=0.0, norm_eps=NORM_EPS, layer_scale=None)
        self.layer, self.has_msa = layer, has_msa
        self.blocks = nn.ModuleList(
            Block(RelativePositionAttention(layer) if has_msa else nn.Identity(), spec, drop_path=0.0)
            for _ in range(depth)
        )
        for block in self.blocks if not has_msa else ():
            del block.norm1  # as published, where nothing precedes the MLP
        self.downsample = DeformableMerging(layer.dim, 2 * layer.dim) if downsample else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x, self.layer.grid, {})[0] if self.has_msa else x + block.mlp(block.norm2(x), {})[0]
        return x if self.downsample is None else self.downsample(x, self.layer.grid, {})[0]


def compute(case: Case) -> Result:
    args = case.config["args"]
    layer = LayerSpec(
        dim=args["dim"],
        num_heads=args.get("num_heads", 1),
        num_prefix_tokens=0,
        grid=(1, *args["input_resolution"]),
        qkv_bias=args.get("qkv_bias", True),
    )
    if "DeformablePatchMerging" in case.config["cls"]:
        model = DeformableMerging(layer.dim, 2 * layer.dim)
    elif "depth" not in args:
        model = RelativePositionAttention(layer)
    else:
        model = Stage(
            layer,
            args["depth"],
            mlp_ratio=args.get("mlp_ratio", MLP_RATIO),
            has_msa=args.get("has_msa", True),
            downsample=bool(args.get("downsample")),
        )
    weights = {name: tensor for name, tensor in case.state.items() if not name.endswith(INDEX)}
    for name in case.state.keys() - weights.keys():
        assert torch.equal(offset_rows(layer.grid, layer.order, torch.device("cpu")), case.state[name])
    model.load_state_dict(weights)
    model.train(case.config.get("train", False))
    x = case.inputs["input"]
    y = model(x) if isinstance(model, Stage) else model(x, layer.grid, {})[0]
    tolerance = MERGING_TOLERANCE if args.get("downsample") else Result.tolerance
    parameters = dict(model.named_parameters())
    if model.training:  # batch statistics take every constant away, so that the gradient is rounding
        parameters = {name: value for name, value in parameters.items() if not name.endswith("dconv.bias")}
    return Result({"output": y}, parameters, tolerance)
