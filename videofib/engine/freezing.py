"""Training a part of a model: which parameters are trained, and which modules are in training mode."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn


def freeze(model: nn.Module, patterns: Sequence[str]) -> None:
    """Freeze the parameters whose names match one of these patterns: ``patch_embed.*``, ``blocks.[0-5].*``.

    Raises:
        ValueError: a pattern that matches no name, or no parameter is left to train.
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
            f"no parameter is left to train: {', '.join(map(repr, patterns))} match all {len(named)} parameters"
        )


def freeze_all_but(model: nn.Module, names: set[str]) -> None:
    """Freeze all parameters but those of these names."""
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name in names)


def set_train_mode(model: nn.Module) -> None:
    """Like ``model.train()``, but frozen modules are in evaluation mode.

    They have no dropout, and batch norms keep their statistics. A module without parameters, such as dropout, counts as
    frozen inside a frozen module, and where everything before it is frozen.
    """
    model.train()
    if all(parameter.requires_grad for parameter in model.parameters()):
        return
    trained = False  # is anything up to here?
    for module in model.modules():
        trained |= any(parameter.requires_grad for parameter in module.parameters(recurse=False))
        module.training = trained or any(parameter.requires_grad for parameter in module.parameters())
    for module in model.modules():
        below = [parameter.requires_grad for parameter in module.parameters()]
        if below and not any(below):
            module.eval()
