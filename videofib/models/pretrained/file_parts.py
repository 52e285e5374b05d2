"""Which of the models in a checkpoint is meant: the only one, the average of a trained one, or the one asked for.

    {"state_dict": {"module.backbone.blocks.0…", "module.head.weight", …}, "state_dict_ema": {…}, "optimizer": {…}}
      part state_dict.module.backbone                                       part state_dict_ema.module.backbone

A part is named by the keys that lead to its tensors, then by the prefix of their names, all joined by dots.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

State = dict[str, Tensor]

# The patch embedding's name, by which a transformer is found among the tensors.
CORES = (
    *("embeddings.patch_embeddings.projection.weight", "embeddings.patch_embedding.weight"),  # the latter of CLIP
    *("patch_embed.proj.weight", "patch_embed.projection.weight"),
    "patch_embed.proj.0.0.weight",  # of a stem of convolutions
)
_AVERAGE = re.compile(r"(^|[._])(ema|swa|avg|averaged?)([._]|$)")
_WRAPPERS = ("module.", "model.", "_orig_mod.")
_DEPTH = 4  # keys that may lead to a state dict
_COUNTER = "n_averaged"  # torch's AveragedModel counts in it


@dataclass(frozen=True)
class Part:
    """One model's tensors.

    Attributes:
        name: of the part; empty for a bare state dict whose names have no prefix.
        state: the tensors without the prefix; those of the other parts are left out.
        others: names of the parts that were not taken.
    """

    name: str
    state: State
    others: tuple[str, ...] = ()


def find_part(content: Mapping, wanted: str | None = None) -> Part:
    """The model meant among those in ``content``, a state dict or what holds some.

    Of a trained model and its moving average, which is what its authors evaluate, the average is taken.

    Args:
        wanted: the name of a part, or some successive keys of it, such as ``teacher``.

    Raises:
        ValueError: no tensors; several models, none of which is meant; ``wanted`` names none, or several; a name that
            occurs twice.
    """
    states = list(_states(content, (), set())) or [((), content)]  # the latter for tensors of any other names
    parts = [(keys, prefix, state) for keys, state in states for prefix in _prefixes(state)]
    if not parts:  # not transformers
        parts = [(keys, _common_wrapper(_tensors(state)), state) for keys, state in states]
    names = [_name(keys, prefix) for keys, prefix, _ in parts]
    chosen = _choose(names, wanted, _is_average(content))
    keys, prefix, state = parts[chosen]
    rivals = [other for other_keys, other, _ in parts if other_keys == keys and other != prefix]
    others = tuple(name for i, name in enumerate(names) if i != chosen)
    return Part(names[chosen], _unwrap(_tensors(state), prefix, rivals), others)


def _states(content: Mapping, keys: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], Mapping]]:
    """The state dicts in ``content``, itself included, each with the keys that lead to it.

    ``seen`` holds the mappings met so far: those of a file may contain themselves.
    """
    seen.add(id(content))
    if any(name.endswith(".weight") for name in _tensors(content)):
        yield keys, content
    if len(keys) < _DEPTH:
        for key, value in content.items():
            if isinstance(value, Mapping) and isinstance(key, str) and id(value) not in seen:
                yield from _states(value, (*keys, key), seen)


def _tensors(state: Mapping) -> State:
    return {
        name: value
        for name, value in state.items()
        if isinstance(value, Tensor) and isinstance(name, str) and name.rpartition(".")[2] != _COUNTER
    }


def _prefixes(state: Mapping) -> list[str]:
    """The prefixes of the transformers' names in a state dict."""
    found = [name.removesuffix(core) for core in CORES for name in _tensors(state) if name.endswith(core)]
    return sorted({prefix for prefix in found if not prefix or prefix.endswith(".")})


def _common_wrapper(state: State) -> str:
    """What wrappers put in front of all names: ``module.``, ``module.model.``, or nothing."""
    common = ""
    while state and (found := [w for w in _WRAPPERS if all(name.startswith(common + w) for name in state)]):
        common += found[0]
    return common


def _name(keys: tuple[str, ...], prefix: str) -> str:
    return ".".join([*keys, *([prefix[:-1]] if prefix else [])])


def _is_average(content: Mapping) -> Callable[[str], bool]:
    """Whether a part of ``content`` is a moving average, by its name."""
    meta = content.get("meta")
    if isinstance(meta, Mapping) and "mmengine_version" in meta and "ema_state_dict" in content:
        # MMEngine's EMAHook exchanges them before it saves
        return lambda name: name.partition(".")[0] == "state_dict"
    return lambda name: _AVERAGE.search(name) is not None


def _choose(names: list[str], wanted: str | None, is_average: Callable[[str], bool]) -> int:
    """The position of the part meant.

    Raises:
        ValueError: none, or several.
    """
    listed = ", ".join(repr(name) for name in names)
    if wanted:
        found = [i for i, name in enumerate(names) if name == wanted]
        found = found or [i for i, name in enumerate(names) if f".{wanted}." in f".{name}."]
        if len(found) == 1:
            return found[0]
        raise ValueError(f"{'several parts are' if found else 'no part is'} called {wanted!r}; there are {listed}")
    averages = [i for i, name in enumerate(names) if is_average(name)]
    if len(names) - len(averages) <= 1 and len(averages) == 1:
        return averages[0]
    if len(names) == 1:
        return 0
    raise ValueError(f"it holds several models, {listed}; say which is meant by its part, such as part={names[0]!r}")


def _unwrap(state: State, prefix: str, rivals: list[str]) -> State:
    """``state`` without the prefix of the part, and without the tensors of its rivals, the other parts in it.

    What stands beside the backbone, such as a classifier, has the first components of the prefix only, and loses those:
    of ``module.backbone.``, ``module.head.weight`` becomes ``head.weight``.

    Raises:
        ValueError: two tensors would then have one name.
    """
    path, unwrapped = _components(prefix), {}
    for name, tensor in state.items():
        own = _components(name)
        if any(_belongs(own, _components(rival), path) for rival in rivals):
            continue
        short = ".".join(own[_shared(own, path) :])
        if short in unwrapped:
            raise ValueError(f"some names occur both with and without the prefix {prefix!r}, such as {short}")
        unwrapped[short] = tensor
    return unwrapped


def _belongs(name: list[str], rival: list[str], path: list[str]) -> bool:
    """Whether a tensor is one of the model at ``rival``, and not of the one at ``path``."""
    shared = _shared(rival, path)
    if shared == len(rival):  # the rival's names have no component that tells them apart
        return name[:shared] == rival and name[shared : shared + 1] != path[shared : shared + 1]
    return name[: shared + 1] == rival[: shared + 1]


def _components(name: str) -> list[str]:
    return name.removesuffix(".").split(".") if name else []


def _shared(one: list[str], other: list[str]) -> int:
    """The number of first components that both have in common."""
    return next(
        (i for i, pair in enumerate(zip(one, other, strict=False)) if pair[0] != pair[1]), min(len(one), len(other))
    )
