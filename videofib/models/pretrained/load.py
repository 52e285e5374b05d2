"""Weights from elsewhere into a model: official TimeSformer, PySlowFast, Hugging Face, timm, VideoMAE, and our own.

    file, folder or module --read_source--> Source --layouts.to_ours--> our names --fit--> our sizes --> the model

Nothing is taken over silently: a :class:`LoadReport` says what was loaded, resized, newly initialised and left unused.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from videofib.checkpoint.file import CheckpointError
from videofib.models.pretrained import layouts
from videofib.models.pretrained.resize import fit_patch_embedding, fit_positions, fit_times
from videofib.models.pretrained.weight_files import Source, read_source
from videofib.models.timesformer import TimeSformer

# What a model may have and the source lack; all else missing means another model.
_MAY_LACK = re.compile(
    r"(head|norm_pre)\..*|(cls|reg)_token|(pos|time)_embed|.*\.(temporal_.*|ls[12]\.gamma|[qk]_norm\.(weight|bias))"
)

_KEPT = "as the model had it"


@dataclass(frozen=True)
class LoadReport:
    """What became of the tensors of a source and of a model. Printed, it names groups of equal layers once.

    Attributes:
        source, layout: where the weights came from, and how they were named there.
        loaded: the model's tensors that were taken over as they are.
        resized: those that were brought to another size: name -> from what to what, and how.
        initialised: those that the source does not have: name -> what they start with.
        unused: the source's tensors that the model has no place for: name -> why.
        differs: settings that are known to differ, so that the numbers will, too.
    """

    source: str
    layout: str
    loaded: tuple[str, ...]
    resized: Mapping[str, str]
    initialised: Mapping[str, str]
    unused: Mapping[str, str]
    differs: tuple[str, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether the model now is the source's."""
        return not (self.resized or self.initialised or self.unused or self.differs)

    @property
    def untrained(self) -> list[str]:
        """The tensors that still hold what the model began with, random numbers as a rule."""
        return [name for name, what in self.initialised.items() if what.endswith(_KEPT)]

    def __str__(self) -> str:
        total = len(self.loaded) + len(self.resized) + len(self.initialised)
        lines = [
            f"weights from {self.source} ({self.layout}): {len(self.loaded)} of {total} tensors loaded as they are"
        ]
        for title, entries in (
            ("resized", self.resized),
            ("newly initialised", self.initialised),
            ("unused", self.unused),
        ):
            lines += [f"  {title}: {line}" for line in _grouped(entries)]
        lines += [f"  differs: {line}" for line in self.differs]
        return "\n".join(lines)


def load_pretrained(
    model: nn.Module,
    source: str | Path | nn.Module | Mapping[str, object] | Source,
    *,
    strict: bool = False,
    position_resize: str = "bicubic",
    time_resize: str = "nearest",
    verbose: bool = True,
) -> LoadReport:
    """Bring weights into a model, whatever the layout they come in.

    Names are translated, position embeddings resized in 2-D and time embeddings in 1-D, the patch embedding inflated
    to tubelets or summed over them; temporal attention that the source lacks starts as spatial attention behind a zero
    ``temporal_fc``, so that it is silent at first; a classifier for another number of classes stays as it is. Models
    other than TimeSformer take weights under their own names, but for the classifier.

    Args:
        model: stays untouched where anything raises.
        source: a checkpoint file (``.pyth``, ``.pth``, ``.pt``, ``.bin``, ``.safetensors``), a folder of Hugging Face
            or timm (``config.json`` and ``model.safetensors``), a module of theirs, a state dict, or what
            :func:`read_source` returned.
        strict: refuse weights that do not fit as they are.
        position_resize: ``bicubic`` or ``nearest``.
        time_resize: ``nearest``, as TimeSformer resizes, or ``linear``.
        verbose: whether to print the report.

    Raises:
        CheckpointError: no such file, a damaged one, one that holds code, another model's, or, with ``strict``, one
            that does not fit as it is; the message names the file and why.
        ValueError: an unknown way of resizing.
    """
    for what, known in ((position_resize, ("bicubic", "nearest")), (time_resize, ("nearest", "linear"))):
        if what not in known:
            raise ValueError(f"unknown way of resizing {what!r}; known: {', '.join(known)}")
    source = source if isinstance(source, Source) else read_source(source)
    own = {name: tensor.detach() for name, tensor in model.state_dict().items()}
    try:
        state = layouts.unwrap(source.state)
        layout, state = layouts.to_ours(state) if isinstance(model, TimeSformer) else ("its own names", state)
        resized = _fit(model, state, position_resize, time_resize) if isinstance(model, TimeSformer) else {}
    except ValueError as error:
        raise CheckpointError(f"{source.name} cannot be used: {error}") from error

    unused = {name: f"{_shape(tensor)}, no such place" for name, tensor in state.items() if name not in own}
    classifier = classifier_names(model)
    new, initialised, problems = {}, {}, []
    for name, tensor in own.items():
        if name in state and not _alike(state[name], tensor):
            theirs = state[name]
            problems.append(f"{name} is {theirs.dtype} ({theirs.layout}, {theirs.device}) there, {tensor.dtype} here")
        elif name in state and state[name].shape == tensor.shape:
            new[name] = state[name]
        elif name in state and name in classifier:
            unused[name] = f"{_shape(state[name])}, another number of classes"
            initialised[name] = f"{_shape(tensor)}, {_KEPT}"
        elif name in state:
            problems.append(f"{name} is {_shape(state[name])} there and {_shape(tensor)} here")
        elif (start := _start(name, tensor, state)) is not None:
            new[name], initialised[name] = start
        elif name in classifier or _MAY_LACK.fullmatch(name):
            initialised[name] = f"{_shape(tensor)}, {_KEPT}"
        else:
            problems.append(f"{name} is missing")
    if problems:
        more = f" and {len(problems) - 6} more" if len(problems) > 6 else ""
        raise CheckpointError(
            f"the weights in {source.name} are another model's: {'; '.join(problems[:6])}{more}; "
            "build the model in their size"
        )
    report = LoadReport(
        source=source.name,
        layout=layout,
        loaded=tuple(name for name in new if name not in resized and name not in initialised),
        resized=resized,
        initialised=initialised,
        unused=unused,
        differs=tuple(_differences(model, source)),
    )
    if strict and not report.is_exact:
        raise CheckpointError(f"the weights do not fit as they are, and strict=True asks for that; {report}")
    model.load_state_dict(own | new)
    if verbose:
        print(report)
    return report


def _fit(model: TimeSformer, state: dict[str, Tensor], position_resize: str, time_resize: str) -> dict[str, str]:
    """Bring the embeddings in ``state`` to the model's sizes, in place; returns what was done to which.

    Raises:
        ValueError: tensors that are no embeddings.
    """
    embed, resized, own = model.patch_embed, {}, model.state_dict()
    for name, lengths, fixed in (  # how many axes it may have, and those whose length is the model's
        ("patch_embed.proj.weight", (4, 5), slice(0, 2)),
        ("pos_embed", (3,), slice(0, 3, 2)),
        ("time_embed", (3,), slice(0, 3, 2)),
    ):
        if name in state and name in own:
            theirs, ours = state[name], own[name]
            sizes_fit = theirs.ndim in lengths and theirs.shape[fixed] == ours.shape[fixed] and theirs.numel()
            if not sizes_fit or not _alike(theirs, ours):
                raise ValueError(f"{name} is {_shape(theirs)} there and {_shape(ours)} here; is it another model's?")
            if theirs.dtype in (torch.float16, torch.bfloat16):  # too coarse to interpolate, and not always possible
                state[name] = theirs.float()

    def put(name: str, tensor: Tensor, how: str) -> None:
        if tensor.shape != state[name].shape:
            resized[name] = f"{_shape(state[name])} -> {_shape(tensor)}, {how}"
            state[name] = tensor

    put("patch_embed.proj.weight", *fit_patch_embedding(state["patch_embed.proj.weight"], embed.proj.weight.shape))
    if model.pos_embed is not None and "pos_embed" in state:
        has_class = model.cls_token is not None
        put("pos_embed", *fit_positions(state["pos_embed"], embed.grid_size, has_class, position_resize))
    if model.time_embed is not None and "time_embed" in state:
        put("time_embed", *fit_times(state["time_embed"], model.time_embed.shape[1], time_resize))
    return resized


def _start(name: str, own: Tensor, state: Mapping[str, Tensor]) -> tuple[Tensor, str] | None:
    """What a tensor that the source lacks is set to, and in which words; None where it is not set."""
    if ".temporal_fc." in name:
        return own.new_zeros(own.shape), "zero, so that temporal attention is silent at first"
    spatial = name.replace(".temporal_", ".")
    if spatial != name and spatial in state and state[spatial].shape == own.shape:
        return state[spatial], f"as {spatial.split('.', 2)[2]}"
    if name.endswith(("qkv.bias", "patch_embed.proj.bias")):
        return own.new_zeros(own.shape), "zero, as good as the none of the source"
    return None


def _differences(model: nn.Module, source: Source) -> list[str]:
    """Settings beside the weights in which a source with a config is known to be another model.

    Raises:
        CheckpointError: one without which the weights mean nothing.
    """
    if not isinstance(model, TimeSformer):
        return []
    config, found = source.config, []
    for what, theirs, ours in (
        ("heads", config.get("num_attention_heads"), model.blocks[0].attn.num_heads),
        ("activation", config.get("hidden_act"), "gelu"),
        ("blocks", config.get("blocks"), "pre-norm"),
    ):
        if theirs not in (None, ours):
            raise CheckpointError(f"the model in {source.name} has {what} {theirs}, this one {ours}")
    for what, theirs, ours in (
        ("attention over", config.get("attention_type"), model.attention_type),
        ("norm epsilon", config.get("layer_norm_eps"), model.norm.eps),
        ("attention", source.attention, model.attention_settings()),
    ):
        if theirs not in (None, ours):
            found.append(f"{what} {theirs or 'dense'} there, {ours or 'dense'} here")
    return found


def classifier_names(model: nn.Module) -> set[str]:
    """Names of the classifier's tensors: ``head``, or the last linear layer."""
    layers = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    last = "head" if isinstance(model, TimeSformer) else layers[-1] if layers else None
    return {f"{last}.weight", f"{last}.bias"}


def _alike(theirs: Tensor, ours: Tensor) -> bool:
    """Whether both hold numbers of one kind; files may hold integers, sparse tensors, and shapes without numbers."""
    kinds = [(tensor.layout, tensor.is_floating_point()) for tensor in (theirs, ours)]
    return kinds[0] == kinds[1] and not theirs.is_meta


def _shape(tensor: Tensor) -> str:
    return "x".join(map(str, tensor.shape))


def _grouped(entries: Mapping[str, str]) -> list[str]:
    """One line for the same thing in many layers: ``blocks.*.attn.qkv.bias (12): zero``."""
    groups = defaultdict(int)
    for name, what in entries.items():
        groups[re.sub(r"\.\d+\.", ".*.", name), what] += 1
    return [f"{name}{f' ({count})' if count > 1 else ''}: {what}" for (name, what), count in groups.items()]
