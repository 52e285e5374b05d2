"""AFNO's published code (``afno1d.py``, ``afno2d.py``, ``classification/afnonet.py``), and its 3-D form."""

import math

import torch
from torch import nn

from tests.mixers.published.case import Result
from videofib.mixers import LayerSpec
from videofib.mixers.afno import AFNO
from videofib.models.blocks import Block, BlockSpec
from videofib.models.patch_embed import PatchEmbed

SYSTEMS = ["afno", "afno1d", "afno2d", "afno3d"]
NORM_EPS = 1e-6
PUBLISHED_BLOCKS = 8


def compute(case):
    system = case.name.split("_")[0]
    if case.name.startswith("afno_net"):
        return compute_net(case)
    if case.name.startswith("afno_block"):
        return compute_block(case)
    x, args = case.inputs["input"], case.config["args"]
    grid = grid_of(case, one_dimension=system == "afno1d")
    filter = AFNO(
        LayerSpec(args["hidden_size"], 1, 0, grid, order="t h w"),
        num_blocks=args.get("num_blocks", PUBLISHED_BLOCKS),
        factor=args.get("hidden_size_factor", 1),
        threshold=args.get("sparsity_threshold", 0.01),
        kept_modes=kept_modes(grid, args.get("hard_thresholding_fraction", 1)),
        residual=args.get("residual", True),
        bias="b1" in case.state,
    )
    filter.load_state_dict(case.state)
    y, _ = filter(x, grid, None)
    return Result({"output": y}, dict(filter.named_parameters()))


def grid_of(case, one_dimension):
    """(t, h, w); the published 2-D form takes a square where no size is given."""
    num_tokens = case.inputs["input"].shape[1]
    if one_dimension:
        return (num_tokens, 1, 1)
    size = case.config.get("spatial_size") or case.config.get("grid") or [math.isqrt(num_tokens)] * 2
    return (1,) * (3 - len(size)) + tuple(size)


def kept_modes(grid, fraction):
    """The published number: a fraction of the frequencies of a line of all tokens, also where the grid has two axes."""
    return int((math.prod(grid) // 2 + 1) * fraction)


def block_of(dim, grid, config, mlp_ratio=4.0):
    """Our block around the filter: with ``double_skip`` it is the published one."""
    filter = AFNO(LayerSpec(dim, 1, 0, grid, order="t h w"), num_blocks=config["cli"]["fno_blocks"])
    return Block(
        filter, BlockSpec(dim, mlp_ratio, drop=0.0, norm_eps=config.get("norm_eps", NORM_EPS), layer_scale=None), 0.0
    )


def with_one_skip(block, x, grid):
    """The published block without ``double_skip``: the MLP's skip goes round both halves."""
    y, _ = block.attn(block.norm1(x), grid, None)
    return x + block.mlp(block.norm2(y), {})[0]


def run(block, x, grid, config):
    return block(x, grid, {})[0] if config["cli"].get("double_skip") else with_one_skip(block, x, grid)


def renamed(state):
    return {name.replace("filter.", "attn."): value for name, value in state.items()}


def published_parameters(module):
    return {name.replace("attn.", "filter."): value for name, value in module.named_parameters()}


def compute_block(case):
    grid, args = (1, *case.config["grid"]), case.config["args"]
    block = block_of(args["dim"], grid, case.config, args.get("mlp_ratio", 4.0))
    block.load_state_dict(renamed(case.state))
    return Result({"output": run(block, case.inputs["input"], grid, case.config)}, published_parameters(block))


class Net(nn.Module):
    """The published classifier of images."""

    def __init__(self, config):
        super().__init__()
        args = config["args"]
        dim, size, self.config = args["embed_dim"], args["img_size"], config
        size = (size, size) if isinstance(size, int) else tuple(size)
        self.patch_embed = PatchEmbed(size, args["patch_size"], 3, dim, 1)
        self.grid = (1, *self.patch_embed.grid_size)
        self.pos_embed = nn.Parameter(torch.empty(1, math.prod(self.grid), dim))
        ratio = args.get("mlp_ratio", 4.0)
        self.blocks = nn.ModuleList(block_of(dim, self.grid, config, ratio) for _ in range(args["depth"]))
        self.norm = nn.LayerNorm(dim, eps=config.get("norm_eps", NORM_EPS))
        self.head = nn.Linear(dim, args["num_classes"])

    def forward(self, image):
        x = self.patch_embed(image.unsqueeze(2)).flatten(1, 3) + self.pos_embed
        for block in self.blocks:
            x = run(block, x, self.grid, self.config)
        return self.head(self.norm(x).mean(1))


def compute_net(case):
    net = Net(case.config)
    net.load_state_dict(renamed(case.state))
    return Result({"output": net(case.inputs["input"])}, published_parameters(net))
