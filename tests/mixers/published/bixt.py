"""BiXT: cross-attention, blocks, the Fourier position and whole models.

Widths and optional parts follow from the shapes of the parameters; the number of heads and epsilons are arguments.
"""

import math

import torch
from einops import rearrange
from torch import nn

from tests.mixers.published import Result
from videofib.mixers import LayerSpec
from videofib.mixers.bixt import CrossAttention
from videofib.mixers.dense_attention import DenseAttention
from videofib.models.blocks import Block, BlockSpec
from videofib.models.latent_block import CrossBlock, LatentBlock
from videofib.models.patch_embed import PatchEmbed

SYSTEMS = ("bixt",)
NORM_EPS = 1e-6
TEMPERATURE = 10000
POSITION = "pos"  # a constant: compared through the outputs, not loaded


def compute(case):
    build = {
        "CrossAttention": cross_attention,
        "CrossAttentionOneSided": cross_attention,
        "BiXTBlock": block,
        "PositionalEncodingFourierXCiTEff.forward_add": position,
        "BiXT": Model,
    }[case.config["cls"].split(".py ")[1].split("(")[0]]
    module = build(case.state, case.config["args"])
    module.load_state_dict({name: x for name, x in case.state.items() if name.split(".")[-1] != POSITION})
    names = ("input_latents", "input") if "input_latents" in case.inputs else ("input",)
    found = module.eval()(*(case.inputs[name] for name in names))
    outputs = (
        dict(zip(("output_latents", "output"), found, strict=True)) if isinstance(found, tuple) else {"output": found}
    )
    return Result({k: v for k, v in outputs.items() if f"__{k}" in case.arrays}, dict(module.named_parameters()))


def part(state, prefix):
    """Of a state, what begins with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}


def cross_attention(state, args):
    return CrossAttention(
        state["proj_lat.weight"].shape[0],
        state["rv_patches.weight"].shape[1],
        state["proj_lat.weight"].shape[1],
        args.get("ca_num_heads", args.get("num_heads")),
        rv_bias="rv_patches.bias" in state,
        one_sided="r_latents.weight" in state,
    )


def spec(state, args, norm, mlp, scale):
    """The sizes of one side: its norm; its MLP, where it has one; the name of its scale."""
    (dim,) = state[f"{norm}.weight"].shape
    hidden = state[f"{mlp}.fc1.weight"].shape[0] if f"{mlp}.fc1.weight" in state else dim
    return BlockSpec(dim, hidden / dim, 0.0, args.get("norm_eps", NORM_EPS), 1.0 if f"{scale}.gamma" in state else None)


def block(state, args):
    cross, own = part(state, "cross_attention_latents_token."), part(state, "self_attention_latents.")
    latents, patches = (spec(cross, args, f"norm1_{side}", f"mlp_{side}", f"ls1_{side}") for side in ("lat", "pat"))
    layer = LayerSpec(
        dim=latents.dim,
        num_heads=args.get("sa_num_heads", args.get("num_heads")),
        num_prefix_tokens=0,
        grid=(1, 1, 1),
        qkv_bias="attn.qkv.bias" in own,
        qk_norm=args.get("norm_eps", NORM_EPS) if "attn.q_norm.weight" in own else None,
    )
    return LatentBlock(
        CrossBlock(cross_attention(part(cross, "attn."), args), latents, patches, 0.0),
        Block(DenseAttention(layer), spec(own, args, "norm1", "mlp", "ls1"), 0.0),
    )


def position(state, args):
    dim, features = state["token_projection.weight"].shape[:2]
    return FourierPosition(state["pos"].shape[1:], features // 2, dim, args.get("temperature", TEMPERATURE))


class FourierPosition(nn.Module):
    """Sines and cosines of both coordinates of the (h, w) grid, projected and added to the tokens."""

    def __init__(self, grid, features, dim, temperature):
        super().__init__()
        y, x = (coordinate(torch.arange(1, n + 1), n, features, temperature) for n in grid)  # (h, f), (w, f)
        h, w = grid
        pos = torch.cat((y[:, None].expand(h, w, -1), x[None].expand(h, w, -1)), dim=-1)
        self.register_buffer("pos", rearrange(pos, "h w f -> f h w"), persistent=False)
        self.token_projection = nn.Conv2d(2 * features, dim, 1)

    def forward(self, x):
        """(B, h·w, D) -> (B, h·w, D)."""
        return x + rearrange(self.token_projection(self.pos[None]), "b d h w -> b (h w) d")


def coordinate(positions, count, features, temperature):
    """Positions 1..count as (count, features): sine and cosine alternate, of falling frequency."""
    angles = positions / (count + 1e-6) * 2 * math.pi
    pairs = torch.arange(features // 2)
    angles = angles[:, None] / temperature ** (2 * pairs / features)
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)


class Model(nn.Module):
    """Patches with Fourier positions, learned latents, blocks; the mean of the latents is classified."""

    def __init__(self, state, args):
        super().__init__()
        self.latents = nn.Parameter(torch.empty_like(state["latents"]))
        dim, channels, patch_size, _ = state["patch_embed.proj.weight"].shape
        size = tuple(patch_size * n for n in state["fourier_pos_encode.pos"].shape[1:])
        self.patch_embed = PatchEmbed(size, patch_size, channels, dim, tubelet_size=1)
        self.fourier_pos_encode = position(part(state, "fourier_pos_encode."), args)
        depth = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("blocks."))
        self.blocks = nn.ModuleList(block(part(state, f"blocks.{i}."), args) for i in range(depth))
        self.fc_norm = nn.LayerNorm(self.latents.shape[-1], eps=args.get("norm_eps", NORM_EPS))
        self.head = nn.Linear(*reversed(state["head.weight"].shape))

    def forward(self, images):
        """(B, C, H, W) -> (B, K)."""
        patches = self.fourier_pos_encode(rearrange(self.patch_embed(images[:, :, None]), "b 1 h w d -> b (h w) d"))
        latents = self.latents
        for block in self.blocks:
            latents, patches = block(latents, patches)
        return self.head(self.fc_norm(latents.mean(1)))
