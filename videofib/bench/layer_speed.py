"""Layers of any mixer beside dense attention: what is timed, with the projections that belong to each."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from videofib.mixers import Grid, LayerSpec, MixerChoice

SIDE = 14  # patches of a side of a frame of 224 pixels
REFERENCE = "dense"


def grid_of(num_tokens: int) -> Grid:
    """(t, 14, 14) with this number of tokens.

    Raises:
        ValueError: there is none.
    """
    frames, rest = divmod(num_tokens, SIDE**2)
    if rest or not frames:
        raise ValueError(f"--mixers take frames of {SIDE}x{SIDE} tokens, so --tokens must be multiples of {SIDE**2}")
    return (frames, SIDE, SIDE)


class Layer(nn.Module):
    """The layer of a mixer behind one prefix token, with random weights: x (B, 1+N, D) -> (B, 1+N, D).

    Raises:
        ValueError: an unknown name or option, or sizes that the mixer cannot have.
    """

    def __init__(self, args: argparse.Namespace, num_tokens: int, name: str):
        super().__init__()
        self.grid = grid_of(num_tokens)
        spec = LayerSpec(args.heads * args.head_dim, args.heads, num_prefix_tokens=1, grid=self.grid)
        self.mixer = MixerChoice({"joint": name}, args.options).build("joint", spec)
        reset = getattr(self.mixer, "reset_parameters", None)
        if reset is not None:
            reset()
        self.to(args.device, getattr(torch, args.dtype)).train(args.backward)

    def forward(self, x: Tensor) -> Tensor:
        return self.mixer(x, self.grid, None)[0]


def contenders(args: argparse.Namespace, num_tokens: int) -> dict[str, Callable[[], Layer]]:
    """By name, the function that prepares a layer; the first is dense attention."""
    names = dict.fromkeys([REFERENCE, *args.mixers])
    return {name: partial(Layer, args, num_tokens, name) for name in names}
