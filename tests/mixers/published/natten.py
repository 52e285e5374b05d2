"""NATTEN: the masks of its flex backend (SHI-Labs/NATTEN)."""

import numpy as np
import torch

from videofib.attention import patterns

SYSTEMS = ("natten",)


def check(case):
    """Every mask (N, N) is our neighbourhood of the same shape, kernel, dilation and causal axes."""
    for name, made in case.config["masks"].items():
        shape = tuple(made["shape"])
        n = int(np.prod(shape))
        expected = np.unpackbits(case.arrays[f"__{name}"], count=n * n).reshape(n, n).astype(bool)
        found = patterns.neighbourhood(
            1,
            shape,
            kernel=tuple(made["kernel_size"]),
            dilation=tuple(made["dilation"]),
            causal=tuple(made["is_causal"]),
            num_prefix_tokens=0,
        )
        assert torch.equal(found.to_mask()[0], torch.from_numpy(expected)), name
        assert _extremes(found.to_mask()[0]) == made["keys_of_a_query"], name


def _extremes(mask):
    counts = mask.sum(1)
    return [int(counts.min()), int(counts.max())]
