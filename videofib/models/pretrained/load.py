"""Load weights into a model: of the official TimeSformer, PySlowFast, Hugging Face, timm, VideoMAE, and our own.

    file, folder or module --read_weights--> Weights --layouts.to_ours--> our names --resize--> our sizes --> the model

Nothing is loaded silently: a :class:`LoadReport` names what was loaded, resized, newly initialised and left unused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from videofib.checkpoint.file import CheckpointError, check_memory
from videofib.classes import ClassesError, difference, positions
from videofib.mixers import Grid
from videofib.models.pretrained import layouts, model_settings
from videofib.models.pretrained.resize import (
    resize_joint_positions,
    resize_patch_embedding,
    resize_positions,
    resize_times,
)
from videofib.models.pretrained.weight_files import Weights, read_weights
from videofib.models.timesformer import TimeSformer
from videofib.models.wrappers import unwrapped
from videofib.printable import printable

# What a model may have and the weights lack; if they lack anything else, they belong to another model.
_MAY_LACK = re.compile(
    r"(head|norm_pre|class_attention|fourier|reductions)\..*|(cls|reg)_token|(pos|time)_embed|"
    r".*\.(temporal_.*|local\..*|ls[12]\.gamma|[qk]_norm\.(weight|bias)|attn\.temperature)"
)
_POSITION_RESIZE = ("bicubic", "nearest")
_TIME_RESIZE = ("nearest", "linear")
_MAX_PROBLEMS = 6  # tensors that an error names; the rest are counted


@dataclass(frozen=True)
class LoadReport:
    """What became of every tensor of some weights and of a model. As text, it names groups of equal layers once.

    Attributes:
        name, layout: the file, folder or class that held the weights, and whose names they had there.
        loaded: the model's tensors that were loaded as they are.
        resized: the model's tensors that were loaded in another size, or with their rows in another order: name -> both
            sizes, and how.
        initialised: the model's tensors that the weights lack: name -> the values they now have.
        unused: the weights' tensors that the model does not use: name -> why.
        untrained: names of the ``initialised`` that keep the model's own initial values, which are random as a rule.
        differs: settings that are known to differ, so that the outputs will differ, too.
        unknown: settings of the weights' model that are not known, so that they may differ.
        part, others: of a file with several models, which was loaded, and which were not.
    """

    name: str
    layout: str
    loaded: tuple[str, ...]
    resized: Mapping[str, str]
    initialised: Mapping[str, str]
    unused: Mapping[str, str]
    untrained: tuple[str, ...] = ()
    differs: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    part: str = ""
    others: tuple[str, ...] = ()

    @property
    def fits(self) -> bool:
        """Whether the model equals the one that the weights come from as far as is known: all tensors are the same, and
        no setting is known to differ. Weights alone do not show all settings, such as the number of heads."""
        return not (self.resized or self.initialised or self.unused or self.differs)

    @property
    def is_exact(self) -> bool:
        """Whether the model equals the one that the weights come from: it ``fits``, and all settings are known."""
        return self.fits and not self.unknown

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.resized) + len(self.initialised)
        lines = [f"weights from {self.name} ({self.layout}): {len(self.loaded)} of {total} tensors loaded as they are"]
        if self.others:
            lines.append(f"  part: {self.part}; not loaded: {', '.join(self.others)}")
        for title, entries in (
            ("resized", self.resized),
            ("newly initialised", self.initialised),
            ("unused", self.unused),
        ):
            lines += [f"  {title}: {line}" for line in _grouped(entries)]
        lines += [f"  differs: {line}" for line in self.differs]
        if self.is_exact:
            lines.append("  exact: the model equals the one that the weights come from")
        elif self.fits:
            lines.append(f"  exact as far as the weights tell, which do not show: {', '.join(self.unknown)}")
        return "\n".join(map(printable, lines))


def load_pretrained(
    model: nn.Module,
    weights: str | Path | nn.Module | Mapping[str, object] | Weights,
    *,
    part: str | None = None,
    strict: bool = False,
    position_resize: str = "bicubic",
    time_resize: str = "nearest",
    class_names: Sequence[str] | None = None,
) -> LoadReport:
    """Load weights into a model, whichever known layout they have.

    Names are translated, position embeddings resized in 2-D and time embeddings in 1-D, the patch embedding inflated
    to tubelets or summed over them. Temporal attention that the weights lack starts as a copy of spatial attention
    behind a zero ``temporal_fc``, so that it adds nothing at first. A classifier for another number of classes is not
    loaded; where both sides name their classes, the rows of the model's classes are, if the weights have all of them,
    and otherwise none. Models other than TimeSformer load weights under the model's own names only.

    Args:
        model: stays as it is if anything raises. Of a wrapper (``torch.compile``, ``DataParallel``, an average), the
            model within is meant.
        weights: a checkpoint file (``.pyth``, ``.pth``, ``.pt``, ``.bin``, ``.safetensors``), a folder of Hugging Face
            or timm (``config.json`` and ``model.safetensors``), a module of theirs, a state dict, or what
            :func:`read_weights` returned.
        part: which model of a file that holds several, as for :func:`read_weights`.
        strict: refuse weights that do not fit as they are (:attr:`LoadReport.fits`).
        position_resize: ``bicubic`` or ``nearest``.
        time_resize: ``nearest``, as TimeSformer resizes, or ``linear``.
        class_names: of the model's classes, in its order; None where they have none.

    Returns:
        A report to print or log; nothing is printed here.

    Raises:
        CheckpointError: a file that is missing, damaged or holds code, several models of which ``part`` names none,
            weights of another model, a model on the meta device, or, with ``strict``, weights that do not fit as they
            are; the message names the file and the reason.
        ValueError: an unknown ``position_resize`` or ``time_resize``; ``part`` of weights that were read before.
    """
    for mode, known in ((position_resize, _POSITION_RESIZE), (time_resize, _TIME_RESIZE)):
        if mode not in known:
            raise ValueError(f"unknown way of resizing {mode!r}; known: {', '.join(known)}")
    if isinstance(weights, Weights) and part is not None:
        raise ValueError(f"part={part!r} is to be chosen where the weights are read: read_weights(..., part={part!r})")
    weights = weights if isinstance(weights, Weights) else read_weights(weights, part)
    model = unwrapped(model)
    check_memory(model, weights.name)
    try:
        state, layout, resized = dict(weights.state), "its own names", {}
        if isinstance(model, TimeSformer):
            layout, state = layouts.to_ours(state)
            _check_positions(model, layout, weights)
            _fold_distillation(model, state)
            resized = _resize(model, state, position_resize, time_resize, model_settings.clip_grid(weights.model))
    except ValueError as error:
        raise CheckpointError(f"{weights.name} cannot be used: {error}") from error
    chosen, refused = _choose_classes(model, state, weights.classes, class_names)
    found = _match(model, state, weights.name, refused)
    resized |= {name: how for name, how in chosen.items() if name in found.tensors}
    differs, unknown = _compare(model, weights, layout)
    report = LoadReport(
        name=weights.name,
        layout=layout,
        loaded=tuple(name for name in found.tensors if name not in resized and name not in found.initialised),
        resized=resized,
        initialised=found.initialised,
        unused=found.unused,
        untrained=tuple(name for name in found.initialised if name not in found.tensors),
        differs=(*differs, *_rounded(model, found.tensors)),
        unknown=unknown,
        part=weights.part,
        others=weights.others,
    )
    if strict and not report.fits:
        raise CheckpointError(f"strict=True accepts only weights that fit as they are; {report}")
    model.load_state_dict(model.state_dict() | found.tensors)
    return report


def _resize(
    model: TimeSformer, state: dict[str, Tensor], position_resize: str, time_resize: str, grid: Grid | None
) -> dict[str, str]:
    """Resize the embeddings in ``state`` to the model's sizes, in place; returns which were resized, and how.

    Args:
        grid: (t, h, w) of the clips that the weights are for, where that is known.

    Raises:
        ValueError: tensors that are not such embeddings.
    """
    embed, resized, own = model.patch_embed, {}, model.state_dict()
    for name, lengths, fixed in (  # how many axes it may have, and those whose length must be the model's
        ("patch_embed.proj.weight", (4, 5), slice(0, 2)),
        ("pos_embed", (3,), slice(0, 3, 2)),
        ("time_embed", (3,), slice(0, 3, 2)),
    ):
        if name in state and name in own:
            theirs, ours = state[name], own[name]
            sizes_fit = theirs.ndim in lengths and theirs.shape[fixed] == ours.shape[fixed] and theirs.numel()
            if not sizes_fit or not _same_kind(theirs, ours):
                raise ValueError(f"{name} is {_shape(theirs)} there and {_shape(ours)} here; is it another model's?")
            if theirs.dtype in (torch.float16, torch.bfloat16):  # too coarse to interpolate, and not always possible
                state[name] = theirs.float()

    def replace(name: str, tensor: Tensor, how: str) -> None:
        if tensor.shape != state[name].shape:
            resized[name] = f"{_shape(state[name])} -> {_shape(tensor)}, {how}"
            state[name] = tensor

    kernel = "patch_embed.proj.weight"
    if kernel in state and kernel in own:
        replace(kernel, *resize_patch_embedding(state[kernel], own[kernel].shape))
    if model.position == "sinusoid" and _same(state.get("pos_embed"), model.positions):
        del state["pos_embed"]  # MMAction2's files hold the table
    if model.pos_embed is not None and "pos_embed" in state:
        has_class = model.cls_token is not None
        if model.joint_positions:
            positions, times = state["pos_embed"], state.pop("time_embed", None)
            found = resize_joint_positions(positions, times, grid, model.grid, has_class, position_resize, time_resize)
        else:
            found = resize_positions(state["pos_embed"], embed.grid_size, has_class, position_resize)
        replace("pos_embed", *found)
    if model.time_embed is not None and "time_embed" in state:
        replace("time_embed", *resize_times(state["time_embed"], model.time_embed.shape[1], time_resize))
    return resized


def _check_positions(model: TimeSformer, layout: str, weights: Weights) -> None:
    """Raise ValueError where a position for each token of a clip would be taken for those of one frame."""
    of_clips = layout == layouts.HUGGING_FACE_VIVIT or model_settings.has_joint_positions(weights.model)
    if of_clips and model.pos_embed is not None and not model.joint_positions:
        raise ValueError(
            "it has a position for each token of a clip; build the model with position='learned_joint' "
            "(TIMESFORMER.POSITION learned_joint)"
        )


def _fold_distillation(model: TimeSformer, state: dict[str, Tensor]) -> None:
    """DeiT's distillation token, for a model of one register, in place.

    It has a position, which a register has not: with that position added, the register is the same token.
    """
    token, positions = state.get(layouts.DISTILLATION), state.get("pos_embed")
    if token is None or positions is None or model.reg_token is None or model.pos_embed is None:
        return
    if token.shape == model.reg_token.shape and positions.ndim == 3 and positions.shape[1] > 2:
        del state[layouts.DISTILLATION]
        state["reg_token"] = token.float() + positions[:, 1:2].float()
        state["pos_embed"] = torch.cat((positions[:, :1], positions[:, 2:]), dim=1)


@dataclass
class _Match:
    """``tensors`` to put into the model, by name; ``initialised`` and ``unused`` as in :class:`LoadReport`."""

    tensors: dict[str, Tensor] = field(default_factory=dict)
    initialised: dict[str, str] = field(default_factory=dict)
    unused: dict[str, str] = field(default_factory=dict)


def _choose_classes(
    model: nn.Module, state: dict[str, Tensor], theirs: Sequence[str] | None, ours: Sequence[str] | None
) -> tuple[dict[str, str], str]:
    """Bring the classifier's rows in ``state`` into the order of the model's classes, in place, by their names.

    Returns:
        Its tensors that were changed, and how; and why it must not be loaded, or "".
    """
    names = classifier_names(model) & state.keys()
    if theirs is None or ours is None or not names or not difference(theirs, ours):
        return {}, ""
    try:
        rows = positions(ours, theirs)
    except ClassesError as error:
        return {}, f"for other classes: {error}"
    chosen = {}
    for name in sorted(names):
        if state[name].ndim and len(state[name]) == len(theirs):
            before, state[name] = _shape(state[name]), state[name][rows]
            chosen[name] = f"{before} -> {_shape(state[name])}, the rows of the model's classes, by name"
    return chosen, ""


def _match(model: nn.Module, state: Mapping[str, Tensor], file: str, refused: str = "") -> _Match:
    """Decide for each tensor of the model, and of ``state`` under the model's names, what becomes of it.

    Args:
        refused: why the weights' classifier must not be loaded, or "".

    Raises:
        CheckpointError: weights of another model; the message names ``file`` and the tensors.
    """
    own = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    classifier = classifier_names(model)
    found, problems = _Match(), []
    found.unused = {
        name: f"{_shape(tensor)}, the model has no such tensor" for name, tensor in state.items() if name not in own
    }
    for name, ours in own.items():
        theirs = state.get(name)
        if theirs is None and (start := _start(name, ours, state)) is not None:
            if beside := [other for other in found.unused if other.startswith(_neighbours(name))]:
                problems.append(f"{name} is missing, and {', '.join(beside[:2])} beside it would stay unused")
            found.tensors[name], found.initialised[name] = start
        elif theirs is None and (name in classifier or _MAY_LACK.fullmatch(name)):
            found.initialised[name] = f"{_shape(ours)}, initial values kept"
        elif theirs is None:
            problems.append(f"{name} is missing")
        elif not _same_kind(theirs, ours):
            problems.append(f"{name} is {theirs.dtype} ({theirs.layout}, {theirs.device}) there, {ours.dtype} here")
        elif name in classifier and refused:
            found.unused[name] = f"{_shape(theirs)}, {refused}"
            found.initialised[name] = f"{_shape(ours)}, initial values kept"
        elif theirs.shape == ours.shape:
            found.tensors[name] = theirs
        elif name in classifier:
            other = "number of classes" if theirs.shape[1:] == ours.shape[1:] else "classifier"
            found.unused[name] = f"{_shape(theirs)}, another {other}"
            found.initialised[name] = f"{_shape(ours)}, initial values kept"
        else:
            problems.append(f"{name} is {_shape(theirs)} there and {_shape(ours)} here")
    if problems:
        more = f" and {len(problems) - _MAX_PROBLEMS} more" if len(problems) > _MAX_PROBLEMS else ""
        raise CheckpointError(
            f"the weights in {file} belong to another model: {'; '.join(problems[:_MAX_PROBLEMS])}{more}; "
            "build the model with their sizes"
        )
    return found


def _start(name: str, own: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, str] | None:
    """What a tensor that the weights lack is set to, and a description of it; None if it is not set."""
    if ".temporal_fc." in name:
        return own.new_zeros(own.shape), "zero, so that temporal attention adds nothing at first"
    spatial = name.replace(".temporal_", ".")
    if spatial != name and spatial in state and state[spatial].shape == own.shape:
        return state[spatial], f"as {spatial.split('.', 2)[2]}"
    if name.endswith(("qkv.bias", "patch_embed.proj.bias")):
        return own.new_zeros(own.shape), "zero, which equals the missing bias"
    return None


def _neighbours(name: str) -> str:
    """How the names begin of what may be another form of a missing tensor: of the same attention, or embedding."""
    if (temporal := name.find("temporal_")) > 0:
        return name[: temporal + len("temporal_")]
    return name.rsplit(".", 2)[0] + "."


def _compare(model: nn.Module, weights: Weights, layout: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """In which settings the model that the weights come from is known to differ, and which are not known of it.

    Raises:
        CheckpointError: one that makes the weights meaningless here.
    """
    if not isinstance(model, TimeSformer):
        return (), ("settings",)
    theirs, ours, differs, unknown = weights.model, model_settings.of_timesformer(model), [], []
    for what in model_settings.SETTINGS:
        if what not in theirs:
            unknown.append(what)
        elif theirs[what] != ours[what] and theirs[what] is not model_settings.ANY:
            if model_settings.never_fits(what, theirs[what], ours[what]):
                raise CheckpointError(f"the model in {weights.name} has {what} {theirs[what]}, this one {ours[what]}")
            differs.append(f"{what} {theirs[what]} there, {ours[what]} here")
    if weights.attention is None or (layout == layouts.XCIT and not weights.attention):  # which is not dense
        unknown.append("attention")
    elif weights.attention != (dense := model.attention_settings()):
        differs.append(f"attention {weights.attention or 'dense'} there, {dense or 'dense'} here")
    return tuple(differs), tuple(unknown)


def _rounded(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """A line if the weights have a precision that the model's numbers do not."""
    own = model.state_dict()
    changed = {
        f"{theirs.dtype} there, {own[name].dtype} here".replace("torch.", "")
        for name, theirs in tensors.items()
        if torch.promote_types(theirs.dtype, own[name].dtype) != own[name].dtype
    }
    return [f"precision {dtypes}" for dtypes in sorted(changed)]


def classifier_names(model: nn.Module) -> set[str]:
    """Names of the classifier's tensors: ``head``, or the last linear layer."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    last = "head" if isinstance(model, TimeSformer) else layers[-1] if layers else None
    return {f"{last}.weight", f"{last}.bias"}


def _same_kind(theirs: Tensor, ours: Tensor) -> bool:
    """Whether both hold numbers of one kind; files may hold integers, sparse tensors, and shapes without numbers."""
    kinds = [(tensor.layout, tensor.is_floating_point()) for tensor in (theirs, ours)]
    return kinds[0] == kinds[1] and not theirs.is_meta


def _same(theirs: Tensor | None, ours: Tensor) -> bool:
    """Whether two tables of positions are the same, apart from rounding."""
    if theirs is None or theirs.shape != ours.shape or not _same_kind(theirs, ours):
        return False
    return torch.allclose(theirs.to(ours), ours, atol=1e-5)


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _grouped(entries: Mapping[str, str]) -> list[str]:
    """One line for the same thing in many layers: ``blocks.*.attn.qkv.bias (12): zero``."""
    groups: defaultdict[tuple[str, str], int] = defaultdict(int)
    for name, what in entries.items():
        groups[re.sub(r"\.\d+\.", ".*.", name), what] += 1
    return [f"{name}{f' ({count})' if count > 1 else ''}: {what}" for (name, what), count in groups.items()]
