"""Shunted-Transformer's attention and block, ``SSA.py`` (arXiv 2111.15193)."""

import torch
import torch.nn.functional as F
from einops import rearrange
from timm.layers import Mlp

from tests.mixers.published.case import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.shunted import ShuntedAttention
from videofib.models.blocks import Block, BlockSpec

SYSTEMS = ("shunted",)
MLP_RATIO = 4.0  # where the arguments name none
NORM_EPS = 1e-5


class DetailMlp(Mlp):
    """fc2(GELU(h + DW3x3(h))) with h = fc1(x): the MLP of the published block."""

    def __init__(self, dim: int, hidden: int, grid: tuple[int, int]):
        super().__init__(dim, hidden)
        self.grid = grid
        self.dwconv = torch.nn.Module()
        self.dwconv.dwconv = torch.nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)

    def forward(self, x, memory):
        h = self.fc1(x)
        maps = self.dwconv.dwconv(rearrange(h, "b (h w) d -> b d h w", h=self.grid[0]))
        return self.fc2(F.gelu(h + rearrange(maps, "b d h w -> b (h w) d"))), memory


def compute(case: Case) -> Result:
    args, grid = case.config["args"], tuple(case.config["grid"])
    dim, is_block = args["dim"], "norm2.weight" in case.state and "mlp.fc1.weight" in case.state
    layer = LayerSpec(
        dim=dim, num_heads=args["num_heads"], num_prefix_tokens=0, grid=(1, *grid), qkv_bias=args.get("qkv_bias", False)
    )
    model: torch.nn.Module = ShuntedAttention(layer, reduction=args.get("sr_ratio", 1))
    if is_block:
        ratio = args.get("mlp_ratio", MLP_RATIO)
        spec = BlockSpec(dim, ratio, drop=0.0, norm_eps=args.get("norm_eps", NORM_EPS), layer_scale=None)
        model = Block(model, spec, drop_path=0.0)
        model.mlp = DetailMlp(dim, int(dim * ratio), grid)
    model.load_state_dict(case.state)
    y, _ = model.train(case.config.get("train", False))(case.inputs["input"], layer.grid, {} if is_block else None)
    return Result({"output": y}, dict(model.named_parameters()))
