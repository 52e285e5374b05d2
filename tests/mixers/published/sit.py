"""SiT: slimming of tokens, their recovery, and the whole network in training (``models/lvvit.py``)."""

import math
from itertools import accumulate

import torch
from torch import Tensor, nn

from tests.mixers.published.case import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.dense_attention import DenseAttention
from videofib.models.blocks import Block, BlockSpec
from videofib.models.embed import join_prefix
from videofib.models.patch_embed import PatchEmbed
from videofib.models.recovery import TokenRecovery
from videofib.models.reduction import Reductions
from videofib.models.slimming import TokenSlimming
from videofib.models.stack import Stack

SYSTEMS = ("sit",)
NORM_EPS = 1e-5
NETWORK_TOLERANCE = 5e-5  # the gradients of the last scores cancel: published ones are up to 4e-5 from those of 64 bits
RENAMED = {"tsm": "reductions", "rtsm": "recovery"}
UNUSED = "aux_head."
SILENT = "weight.3.bias"  # of the scores: the same for all tokens, over which the softmax is; its gradient is rounding


class Divided(nn.Module):
    """The published constant on residual branches, ``skip_lam``."""

    def __init__(self, by: float):
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x / self.by


class Network(nn.Module):
    """Patches, a class token, blocks with slimming after each stage but the last, and the tokens recovered of each."""

    def __init__(self, args: dict, grid: tuple[int, int], state: dict[str, Tensor]):
        super().__init__()
        dim, stages = args["embed_dim"], args["stage_blocks"]
        depth, tokens = sum(stages), math.prod(grid)
        self.patch_embed = PatchEmbed(tuple(args["img_size"]), args["patch_size"], args.get("in_chans", 3), dim, 1)
        self.cls_token, self.pos_embed = (
            nn.Parameter(torch.empty(1, 1, dim)),
            nn.Parameter(torch.empty(1, 1 + tokens, dim)),
        )
        bias = "blocks.0.attn.qkv.bias" in state
        layer = LayerSpec(dim, args["num_heads"], 1, (1, *grid), order="t h w", qkv_bias=bias)
        spec = BlockSpec(dim, args.get("mlp_ratio", 3.0), 0.0, NORM_EPS, None)
        self.blocks = Stack(Block(DenseAttention(layer), spec, 0.0) for _ in range(depth))
        for block in self.blocks:
            block.ls1 = block.ls2 = Divided(args.get("skip_lam", 1.0))
        ratio, after = args.get("keeping_ratio", 0.5), [end - 1 for end in accumulate(stages)][:-1]

        def make(before, _):
            return TokenSlimming(dim, int(tokens * ratio ** (before + 1)), order="t h w", num_prefix_tokens=1)

        self.reductions = Reductions(after, make, grid=(1, *grid), depth=depth)
        self.recovery, num_soft = nn.ModuleDict(), None
        for index in range(depth):
            num_soft = self.reductions[str(index)].num_soft if index in after else num_soft
            if num_soft is not None:
                self.recovery[str(index)] = TokenRecovery(dim, num_soft, tokens)
        self.norm, self.head = spec.norm(), nn.Linear(dim, args["num_classes"])
        self.grid, self.depth = (1, *grid), depth

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        patches = self.patch_embed(image[:, :, None]).flatten(1, 3)
        x = join_prefix(self.cls_token, patches) + self.pos_embed
        x, _, kept, _ = self.blocks.outputs(x, self.grid, range(self.depth), reductions=self.reductions)
        recovered = {
            f"output_tokens{i}": self.recovery[str(i)](y[:, 1:]) if str(i) in self.recovery else y[:, 1:]
            for i, y in kept.items()
        }
        return {"output": self.head(self.norm(x)[:, 0]), **recovered}


def compute(case: Case) -> Result:
    args, x = case.config["args"], case.inputs["input"]
    kind = case.config["cls"]
    if "TokenSlimmingModule" in kind:
        model = TokenSlimming(x.shape[2], args["keeped_patches"])
        return computed(case, model, lambda: {"output": model(x, (1, 1, x.shape[1]), {})[0]})
    if "ReverseTSM" in kind:
        model = TokenRecovery(x.shape[2], args["keeped_patches"], args["recovered_patches"])
        return computed(case, model, lambda: {"output": model(x)})
    model = Network(args, tuple(case.config["grid"]), case.state)
    return computed(case, model, lambda: model(x), NETWORK_TOLERANCE)


def computed(case: Case, model: nn.Module, forward, tolerance: float = Result.tolerance) -> Result:
    names = {ours(name, case, model): name for name in case.state if not name.startswith(UNUSED)}
    model.load_state_dict({own: case.state[name] for own, name in names.items()})
    model.train(case.config.get("train", False))
    outputs = forward()
    parameters = {names[own]: parameter for own, parameter in model.named_parameters() if not own.endswith(SILENT)}
    return Result({name: outputs[name] for name in outputs if f"__{name}" in case.arrays}, parameters, tolerance)


def ours(name: str, case: Case, model: nn.Module) -> str:
    """``tsm.1…`` is of the second slimming, which we name by its block, ``rtsm.1…`` of the second recovery's block."""
    first, _, rest = name.partition(".")
    if not isinstance(model, Network) or first not in RENAMED:
        return name
    number, _, rest = rest.partition(".")
    index = list(model.reductions)[int(number)] if first == "tsm" else number
    return f"{RENAMED[first]}.{index}.{rest}"
