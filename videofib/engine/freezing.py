"""Training a part of a model: which parameters learn, and which modules behave as in training."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Let the parameters whose names match one of these stay as they are: ``patch_embed.*``, ``blocks.[0-5].*``.

    Raises:
        ValueError: a pattern that matches no name, or nothing is left to learn.
    """
    named = dict(model.named_parameters())
    for pattern in patterns:
        matching = [parameter for name, parameter in named.items() if fnmatchcase(name, pattern)]
        if not matching:
            raise ValueError(f"{pattern!r} matches no parameter; they are {', '.join(list(named)[:6])} ...")
        for parameter in matching:
            parameter.requires_grad_(False)
    if not any(parameter.requires_grad for parameter in named.values()):
        raise ValueError(
            f"nothing is left to learn: {', '.join(map(repr, patterns))} match all {len(named)} parameters"
        )


def freeze_all_but(model: nn.Module, names: set[str]) -> None:
    """Let only the parameters of these names learn."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in names)


def learning_mode(model: nn.Module) -> None:
    """As ``model.train()``, but with what is frozen in evaluation mode: no dropout in it, and batch norms stand still.

    A module without parameters, such as dropout, is frozen within one that is, and where nothing learns before it.
    """
    model.train()
    if all(parameter.requires_grad for parameter in model.parameters()):
        return
    learning = False  # does anything up to here learn?
    for module in model.modules():
        learning |= any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        module.training = learning or any(parameter.requires_grad for parameter in module.parameters())
    for module in model.modules():
        below = [parameter.requires_grad for parameter in module.parameters()]
        if below and not any(below):
            module.eval()
