"""What the heads of a saved model do, on the videos of its data set: one view of each, the centre of the middle clip.

The readouts are fitted on training videos, and so is the order in which heads are removed; figures are of other videos.

N videos, C = H·D nodes of a layer, H heads, L layers, U sets of removed heads, K classes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, cast

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from videofib.data.errors import DecodeError, ManifestError
from videofib.data.loading.loader import VideoLoader
from videofib.metrics.probe import linear_probe
from videofib.models.heads import Ablated, HeadLayer, HeadOutputs, MapDivergence, has_maps, head_layers, pair_overlap
from videofib.models.heads.outputs import Head
from videofib.models.timesformer import TimeSformer
from videofib.report.heads.fields import clusters, fields, strong
from videofib.report.heads.found import Cumulative, HeadsFound, LayerFound, Removal, removal
from videofib.report.heads.specialisation import (
    Readout,
    accuracy,
    compared,
    null_draws,
    pairwise_cka,
    recalls,
    specialisation,
)
from videofib.run.lists import is_multi_label
from videofib.run.loaders import build_eval_loader

if TYPE_CHECKING:
    from videofib.run.saved_model import SavedModel

MOST_STEPS = 8  # of a cumulative curve


@dataclass(frozen=True)
class Settings:
    """How heads are measured.

    Attributes:
        split: ``test`` or ``val``: of the videos that figures are of.
        blocks: which ones are looked at, from 0, or from the end below 0; None: all.
        patches: look at the mean of the patches' outputs, also where the model's features are the class token.
        fit_videos, videos: at most so many training videos and videos of the split, as many of each class as possible.
        rank_videos: of the training videos, so many that say in which order heads are removed.
        map_videos: of the split's videos, so many whose attention maps are compared.
        draws: random groups of nodes.
        orders: random orders of a cumulative removal.
        seed: of the choice of videos, the groups and the orders.
    """

    split: str = "test"
    blocks: Sequence[int] | None = None
    patches: bool = False
    fit_videos: int = 800
    videos: int = 400
    rank_videos: int = 200
    map_videos: int = 16
    draws: int = 1000
    orders: int = 5
    seed: int = 0


def measure_heads(
    saved: SavedModel,
    settings: Settings | None = None,
    *,
    num_workers: int = 0,
    report: Callable[[str], None] = lambda _: None,
) -> HeadsFound:
    """What each head recognises, what is lost without it, and how alike heads are.

    Args:
        report: called with a line for each video that cannot be read.

    Raises:
        ValueError: a model without such heads, compiled, or whose videos have several labels; no such block.
        ManifestError: no train list or list of the split, or one without labels.
        DecodeError: no video of a split can be read.
    """
    settings = settings or Settings()
    _check(saved)
    head_layers(saved.model)  # a model without heads is refused before any list is read
    model = cast(TimeSformer, saved.model)
    fitted = _Videos(saved, "train", settings.fit_videos, settings.seed, num_workers, report)
    tested = _Videos(saved, settings.split, settings.videos, settings.seed, num_workers, report)
    layers = _chosen(head_layers(model, model.patch_embed.grid_of(torch.empty(tested.shape))), settings.blocks)
    singles: list[list[Head]] = [[(index, row)] for index, layer in enumerate(layers) for row in range(layer.num_heads)]
    everywhere = _everywhere(layers)
    learned = fitted.measured(layers, patches=settings.patches)
    ranked = _Videos(saved, "train", min(settings.rank_videos, settings.fit_videos), settings.seed, num_workers, report)
    ranks = ranked.measured(layers, singles, complain=False)
    sets = [*singles, *(heads for rows in everywhere.values() for heads in rows)]
    seen = tested.measured(layers, sets, patches=settings.patches)

    removals = [removal(seen.full, ablated, seen.labels) for ablated in seen.ablated]
    harm = np.array([removal(ranks.full, ablated, ranks.labels).log_probability for ablated in ranks.ablated])
    order = [singles[index][0] for index in np.argsort(harm, kind="stable")]  # the most harmful removal first
    found, taken = [], iter(removals)
    maps = tested.map_divergence(layers, settings.map_videos)
    for index, layer in enumerate(layers):
        own = [next(taken) for _ in range(layer.num_heads)]
        found.append(_layer(layer, index, learned, seen, own, maps[index], settings))
    return HeadsFound(
        model=saved.name,
        classes=saved.classes,
        split=settings.split,
        num_fitted=len(learned.labels),
        num_videos=len(seen.labels),
        unreadable=fitted.unreadable + tested.unreadable,
        pooled_from="the class token"
        if model.pooling == "class_token" and not settings.patches
        else "the mean of the patches",
        accuracy=100.0 * float((seen.full.argmax(axis=1) == seen.labels).mean()),
        draws=settings.draws,
        seed=settings.seed,
        without=sorted(set(model.blocks.mixers()) - {layer.name for layer in head_layers(model)}),
        layers=found,
        everywhere={axis: [next(taken) for _ in rows] for axis, rows in everywhere.items()},
        everywhere_labels={axis: _row_labels(layers, axis) for axis in everywhere},
        cumulative=_cumulative(tested, layers, order, settings),
    )


def untrained(saved: SavedModel, seed: int) -> SavedModel:
    """The same with a model that has the initial weights of a seed: what of a finding is there before training?

    Raises:
        ValueError: no TimeSformer.
    """
    if not isinstance(saved.model, TimeSformer):
        raise ValueError(f"initial weights are those of a TimeSformer, got {type(saved.model).__name__}")
    model = deepcopy(saved.model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.reset_parameters()
    return replace(saved, model=model, name=f"{saved.name}, untrained")


@dataclass(frozen=True)
class _Measured:
    """Of the videos that can be read: the pooled outputs of each layer (N, C), and log-probabilities.

    Attributes:
        labels: (N,).
        features: (N, C) of each layer.
        full: (N, K).
        ablated: (U, N, K).
    """

    labels: np.ndarray
    features: list[Tensor]
    full: np.ndarray
    ablated: np.ndarray


class _Videos:
    """Some labelled videos of a split, one view of each."""

    def __init__(
        self, saved: SavedModel, split: str, most: int, seed: int, num_workers: int, report: Callable[[str], None]
    ):
        self._saved, self._split, self._report = saved, split, report
        self._model = cast(TimeSformer, saved.model)
        self._cfg = _one_view(saved.cfg, num_workers)
        numbered = list(saved.classes) == [str(number) for number in range(len(saved.classes))]
        self._classes = None if numbered else saved.classes
        with self._loader() as loader:
            records = loader.dataset.records
            labels, self.shape = np.asarray(records.labels), (1, *loader.dataset.shape[1:])
        if not records.has_labels:
            raise ManifestError(f"the {split} split in {saved.cfg.DATA.PATH_TO_DATA_DIR} has no labels")
        if (labels >= len(saved.classes)).any():
            raise ManifestError(
                f"the {split} split has label {labels.max()}, and the model has {len(saved.classes)} classes"
            )
        self.chosen = balanced(labels, most, seed)
        self.unreadable = 0

    def measured(
        self,
        layers: Sequence[HeadLayer],
        sets: Sequence[Sequence[Head]] = (),
        *,
        patches: bool = False,
        complain: bool = True,
    ) -> _Measured:
        outputs, ablated = HeadOutputs(self._model, layers, patches=patches), Ablated(self._model, layers, sets)
        model = _Beside(outputs, ablated) if sets else outputs
        labels, rows = self._computed(model, "heads", self.chosen, complain=complain)
        classes = len(self._saved.classes)
        removed = rows[:, rows.shape[1] - len(sets) * classes :].unflatten(1, (len(sets), classes))
        features, logits = outputs.split(rows[:, : rows.shape[1] - len(sets) * classes])
        return _Measured(labels, features, _log(logits), _log(removed).swapaxes(0, 1))

    def accuracies(self, layers: Sequence[HeadLayer], sets: Sequence[Sequence[Head]]) -> list[float]:
        """Without each set, in percent."""
        labels, logits = self._computed(Ablated(self._model, layers, sets), "removals", self.chosen)
        right = logits.argmax(dim=-1).numpy() == labels[:, None]
        return [100.0 * float(share) for share in right.mean(axis=0)]

    def map_divergence(self, layers: Sequence[HeadLayer], most: int) -> list[np.ndarray | None]:
        """(H, H) of each layer, the mean over some of the videos; None of layers without maps."""
        if not any(map(has_maps, layers)):
            return [None] * len(layers)
        some = self.chosen[:: max(1, len(self.chosen) // most)][:most]
        _, found = self._computed(MapDivergence(self._model, layers), "maps", some)
        means = found.double().mean(dim=0).numpy()
        return [mean if has_maps(layer) else None for layer, mean in zip(layers, means, strict=True)]

    def _loader(self) -> VideoLoader:
        return build_eval_loader(self._cfg, self._split, class_names=self._classes)

    def _computed(
        self, model: nn.Module, title: str, chosen: Sequence[int], *, complain: bool = False
    ) -> tuple[np.ndarray, Tensor]:
        """The labels (N,) of the videos that can be read, and what ``model`` gives for each: (N, ...)."""
        labels, rows, failed = [], [], 0
        with self._loader() as loader:
            records = loader.dataset.records
            loader.restrict(chosen)
            for batch, outputs in self._saved.computed(loader, len(loader), model, title=title):
                failures = dict(batch["failures"])
                for index, row in zip(batch["indices"].tolist(), outputs, strict=True):
                    if error := failures.get(records[index].video_id):
                        failed += 1
                        if complain:
                            self._report(f"error: {error}")
                        continue
                    labels.append(int(records.labels[index]))
                    rows.append(row[0])
        if not rows:
            raise DecodeError(f"none of the {len(chosen)} videos of the {self._split} split could be read")
        if complain:
            self.unreadable = failed
        found = torch.stack(rows)
        if complain and not found.isfinite().all():
            raise ValueError("the outputs of the model's heads, or its scores, are not finite")
        return np.array(labels), found


class _Beside(nn.Module):
    """Clips -> what both modules give, side by side: (B, ...)."""

    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second

    def forward(self, video: Tensor) -> Tensor:
        return torch.cat((self.first(video), self.second(video).flatten(1)), dim=1)


def balanced(labels: np.ndarray, most: int, seed: int) -> list[int]:
    """At most so many positions of labelled videos, in order: drawn at random, evenly from the classes."""
    generator = np.random.default_rng(seed)
    turns = []  # of each video: its rank within its class, and a random number among equals
    for label in np.unique(labels[labels >= 0]):
        own = generator.permutation(np.flatnonzero(labels == label))
        turns += [(rank, generator.random(), int(index)) for rank, index in enumerate(own)]
    return sorted(index for _, _, index in sorted(turns)[:most])


def _layer(
    layer: HeadLayer,
    index: int,
    learned: _Measured,
    seen: _Measured,
    removed: list[Removal],
    maps: np.ndarray | None,
    settings: Settings,
) -> LayerFound:
    num_classes = learned.full.shape[1]
    probe = linear_probe(learned.features[index], torch.from_numpy(learned.labels), num_classes)
    values = ((seen.features[index].double() - probe.mean) / probe.scale).numpy()
    raw = seen.features[index].double().numpy()
    readout = Readout(values, raw - raw.mean(axis=0), seen.labels, probe.weight.numpy(), probe.bias.numpy())
    groups = np.arange(layer.width).reshape(layer.num_heads, -1)  # of features in the layer's order of heads
    means = readout.means()
    matrices = fields(readout.weight, means, groups)
    largest = np.maximum(matrices.max(axis=(1, 2), keepdims=True), np.finfo(float).tiny)
    draws = null_draws(readout, layer.num_heads, settings.draws, settings.seed)
    pairs = pair_overlap(layer)
    return LayerFound(
        layer.block,
        layer.axis,
        type(layer.mixer).__name__,
        layer.labels,
        accuracy(readout),
        probe.strength,
        recalls(readout, groups),
        matrices / largest,
        [clusters(entries) for entries in strong(matrices)],
        _node_clusters(readout.weight, means),
        compared(specialisation(readout, groups), draws),
        removed,
        None if pairs is None else pairs.numpy(),
        maps,
        pairwise_cka(readout.centred, groups),
    )


def _node_clusters(weight: np.ndarray, means: np.ndarray) -> tuple[float, float, float]:
    """Of all nodes: the mean number of clusters, the mean size of one, and signal over noise."""
    found = [clusters(strong(np.outer(own, mean))) for own, mean in zip(weight.T, means, strict=True)]
    sizes = [len(cluster) for node in found for cluster in node.members]
    noise = sum(node.noise for node in found)
    signal = sum(node.signal for node in found)
    return len(sizes) / len(found), float(np.mean(sizes or [0])), signal / noise if noise else float("inf")


def _cumulative(tested: _Videos, layers: Sequence[HeadLayer], order: list[Head], settings: Settings) -> Cumulative:
    num_steps = min(len(order), MOST_STEPS)
    counts = [round(len(order) * step / num_steps) for step in range(num_steps + 1)]
    generator = np.random.default_rng(settings.seed)
    orders = [order, order[::-1]]
    orders += [[order[index] for index in generator.permutation(len(order))] for _ in range(settings.orders)]
    steps_of = [[frozenset(one[:count]) for count in counts] for one in orders]
    sets = list(dict.fromkeys(heads for steps in steps_of for heads in steps))  # all orders begin and end alike
    found = dict(zip(sets, tested.accuracies(layers, [sorted(heads) for heads in sets]), strict=True))
    most, least, *others = [[found[heads] for heads in steps] for steps in steps_of]
    return Cumulative(order, counts, most, least, others)


def _everywhere(layers: Sequence[HeadLayer]) -> dict[str, list[list[Head]]]:
    """For each axis that several layers have, the same row of all of them."""
    found = {}
    for axis in dict.fromkeys(layer.axis for layer in layers):
        own = [index for index, layer in enumerate(layers) if layer.axis == axis]
        if len(own) > 1 and len({layers[index].num_heads for index in own}) == 1:
            found[axis] = [[(index, row) for index in own] for row in range(layers[own[0]].num_heads)]
    return found


def _row_labels(layers: Sequence[HeadLayer], axis: str) -> list[str]:
    """What the same row of all layers is called: its offsets where these are the same, or its number."""
    own = [layer for layer in layers if layer.axis == axis]
    names = []
    for row in range(own[0].num_heads):
        labels = {layer.labels[row].partition(": ")[2] if layer.offsets else layer.labels[row] for layer in own}
        names.append(labels.pop() if len(labels) == 1 else f"row {row + 1}")
    return names if len(set(names)) == len(names) else [f"{row + 1}: {name}" for row, name in enumerate(names)]


def _chosen(layers: list[HeadLayer], blocks: Sequence[int] | None) -> list[HeadLayer]:
    if blocks is None:
        return layers
    known = sorted({layer.block for layer in layers})
    depth = known[-1] + 1
    wanted = {block + depth if block < 0 else block for block in blocks}
    if not wanted <= set(known):
        raise ValueError(
            f"no heads in block {min(wanted - set(known))}; blocks with heads: {', '.join(map(str, known))}"
        )
    return [layer for layer in layers if layer.block in wanted]


def _check(saved: SavedModel) -> None:
    if saved.compiled:
        raise ValueError("heads are seen by hooks, which do not run in a compiled model; load it without compiled=True")
    if is_multi_label(saved.cfg):
        raise ValueError("single-head performance needs videos of one class each, and this model's may have several")


def _one_view(cfg: CfgNode, num_workers: int) -> CfgNode:
    changed = cfg.clone()
    changed.defrost()
    changed.DATA_LOADER.NUM_WORKERS = num_workers
    changed.TEST.NUM_ENSEMBLE_VIEWS = changed.TEST.NUM_SPATIAL_CROPS = 1
    changed.freeze()
    return changed


def _log(logits: Tensor) -> np.ndarray:
    return logits.double().log_softmax(dim=-1).numpy()
