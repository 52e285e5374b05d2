"""Reproducible randomness: seeding all generators, and saving and restoring their states."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def seed_everything(*key: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices) from a few integers, such as (seed, epoch, rank)."""
    state = int(np.random.SeedSequence(key).generate_state(1)[0])
    random.seed(state)
    np.random.seed(state)
    torch.manual_seed(state)


def generator_states() -> dict[str, Any]:
    """The states of this process's generators, as tensors and plain values, which ``torch.save`` keeps safely."""
    name, keys, *rest = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": (name, keys.tolist(), *rest),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_available() else None,
    }


def restore_generators(states: dict[str, Any]) -> None:
    """Set the generators to what ``generator_states`` returned.

    Raises:
        ValueError: these are not such states.
    """
    try:
        random.setstate(states["python"])
        np.random.set_state(states["numpy"])
        torch.set_rng_state(states["torch"])
        if states["cuda"] is not None and torch.cuda.is_available():
            torch.cuda.set_rng_state(states["cuda"])
    except (LookupError, TypeError, ValueError, ArithmeticError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the states of the random generators cannot be used: {error}") from error
