"""XCiT: attention, local interaction, blocks, positions and whole networks (``xcit.py`` of facebookresearch/xcit)."""

import re

import torch
from einops import rearrange
from torch import nn

from tests.mixers.published.case import Case, Result
from videofib.mixers import LayerSpec
from videofib.mixers.xcit import CrossCovarianceAttention
from videofib.models.blocks import Block, BlockSpec
from videofib.models.class_attention import ClassAttentionBlock, ClassAttentionPooling
from videofib.models.fourier_position import FourierPosition
from videofib.models.local_interaction import LocalPatchInteraction
from videofib.models.patch_embed import ConvStem

SYSTEMS = ("xcit",)
RENAMED = {
    r"\bgamma(\d)": r"ls\1.gamma",
    r"^cls_token": "class_attention.cls_token",
    r"^cls_attn_blocks": "class_attention.blocks",
}


class XCiTBlock(Block):
    """A block with local interaction between attention and MLP."""

    def __init__(self, layer: LayerSpec, spec: BlockSpec):
        super().__init__(CrossCovarianceAttention(layer), spec, 0.0)
        self.norm3, self.ls3 = spec.norm(), spec.scale()
        self.local_mp = LocalPatchInteraction(layer.dim, order=layer.order)

    def forward(self, x, grid, memory):
        x = x + self.ls1(self.attn(self.norm1(x), grid, None)[0])
        x = x + self.ls3(self.local_mp(self.norm3(x), grid))
        return x + self.ls2(self.mlp(self.norm2(x), memory)[0]), memory


class Network(nn.Module):
    """Convolutional stem, Fourier positions, blocks, and a class token that joins after them."""

    def __init__(self, block, case: Case):
        super().__init__()
        args = case.config["args"]
        layer, spec = sizes_of(case, args["embed_dim"], 1)
        self.patch_embed = ConvStem((64, 64), args.get("patch_size", 16), args.get("in_chans", 3), layer.dim, 1)
        self.pos_embeder = FourierPosition(layer.dim) if args.get("use_pos", True) else None
        self.blocks = nn.ModuleList(block(layer, spec) for _ in range(args.get("depth", 12)))
        self.class_attention = ClassAttentionPooling(
            layer, spec, num_blocks=args.get("cls_attn_layers", 2), tokens_norm=args.get("tokens_norm", False)
        )
        self.norm = spec.norm()
        self.head = nn.Linear(layer.dim, args["num_classes"])

    def forward(self, image):
        patches = self.patch_embed(image[:, :, None])
        if self.pos_embeder is not None:
            patches = patches + rearrange(self.pos_embeder(*patches.shape[2:4]), "1 d h w -> 1 1 h w d")
        grid = tuple(patches.shape[1:4])
        x = rearrange(patches, "b t h w d -> b (t h w) d")
        for block in self.blocks:
            x, _ = block(x, grid, {})
        return self.head(self.norm(self.class_attention(x)))


def compute(case: Case) -> Result:
    kind, args, x = class_of(case), case.config["args"], case.inputs["input"]
    if kind == "XCA":
        layer, _ = sizes_of(case, args["dim"], x.shape[1])
        return computed(case, CrossCovarianceAttention(layer), grid_of(case), None)
    if kind == "LPI":
        width = args.get("kernel_size", 3)
        model = LocalPatchInteraction(args["in_features"], order="t h w", kernel=(1, width, width))
        return computed(case, model, grid_of(case))
    if kind == "XCABlock":
        return computed(case, XCiTBlock(*sizes_of(case, args["dim"], x.shape[1])), grid_of(case), {})
    if kind == "ClassAttentionBlock":
        return class_attention_block(case)
    if kind == "PositionalEncodingFourier":
        model = FourierPosition(args.get("dim", 768), args.get("hidden_dim", 32))
        model.load_state_dict(case.state)
        batch, height, width = x.tolist()
        return Result({"output": model(height, width).expand(batch, -1, -1, -1)}, dict(model.named_parameters()))
    return computed(case, Network(XCiTBlock, case))


def class_attention_block(case: Case) -> Result:
    args = case.config["args"]
    layer, spec = sizes_of(case, args["dim"], case.inputs["input"].shape[1] - 1)
    return computed(case, ClassAttentionBlock(layer, spec, tokens_norm=args.get("tokens_norm", False)))


def class_of(case: Case) -> str:
    return case.config["cls"].partition(":")[2]


def grid_of(case: Case) -> tuple[int, int, int]:
    """Of one frame, or of one row where the file names no grid."""
    height, width = case.config.get("grid", (1, case.inputs["input"].shape[1]))
    return 1, height, width


def sizes_of(case: Case, dim: int, num_tokens: int) -> tuple[LayerSpec, BlockSpec]:
    args = case.config["args"]
    is_network = "embed_dim" in args
    num_heads, bias = args.get("num_heads", 12 if is_network else 8), args.get("qkv_bias", is_network)
    layer = LayerSpec(dim, num_heads, 0, (1, 1, num_tokens), order="t h w", qkv_bias=bias)
    norm_eps = case.config.get("norm_eps", 1e-6 if is_network else 1e-5)
    return layer, BlockSpec(dim, args.get("mlp_ratio", 4.0), 0.0, norm_eps, args.get("eta", 1.0))


def computed(case: Case, model: nn.Module, *arguments) -> Result:
    """What a model with the published weights returns for ``(input, *arguments)``; in training, its buffers agree."""
    model.load_state_dict({ours(name): value.clone() for name, value in case.state.items()})
    model.train(case.config.get("mode", "eval").startswith("train"))
    y = model(case.inputs["input"], *arguments)
    for name, array in case.arrays.items():
        if name.startswith("__after."):
            found = model.get_submodule("bn").state_dict()[name.removeprefix("__after.")]
            torch.testing.assert_close(found, torch.as_tensor(array), rtol=5e-6, atol=1e-6)
    parameters = dict(model.named_parameters())
    return Result(
        {"output": y[0] if isinstance(y, tuple) else y},
        {name: parameters[ours(name)] for name in case.state if ours(name) in parameters},
    )


def ours(name: str) -> str:
    for pattern, replacement in RENAMED.items():
        name = re.sub(pattern, replacement, name)
    return name
