"""A saved model as one object: from a video to the classes that it most probably has.

V views of a video, C T H W channels, frames, height, width; K classes, D features.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from fvcore.common.config import CfgNode
from torch import Tensor, nn

from videofib.config import ConfigError
from videofib.data.errors import DecodeError
from videofib.data.lists.record import NamedVideo
from videofib.data.lists.records import Records
from videofib.engine.evaluate import score_batches
from videofib.metrics.accuracy import ensemble_views
from videofib.models.pretrained.hub import upload
from videofib.report.explanation.explained import Explanation
from videofib.run.explaining import explain
from videofib.run.feature_model import LAST, FeatureModel
from videofib.run.loaders import build_video_loader, describe_input, testing_views, view_dataset
from videofib.run.parts import TASKS
from videofib.run.precisions import PRECISION_TYPES
from videofib.run.save import save

PRECISIONS: dict[str, torch.dtype | None] = {
    name: None if dtype is None else getattr(torch, dtype) for name, dtype in PRECISION_TYPES.items()
}


def unsupported(precision: str, device: torch.device) -> str:
    """Why a device cannot compute in a precision, in words that follow its name; "" where it can."""
    if precision == "fp16" and device.type == "cpu":
        return "needs a GPU"
    if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        return "is not supported by this GPU"
    return ""


def missing_compiler(device: torch.device) -> str:
    """The C++ compiler that compiling for a device needs and that is not installed; "" where nothing is missing."""
    compiler = os.environ.get("CXX", "g++")
    return compiler if device.type == "cpu" and shutil.which(compiler) is None else ""


@dataclass(frozen=True)
class Prediction:
    """What a model says about a video.

    Attributes:
        video: its path.
        scores: (K,) probabilities, summing to 1 unless a video may have several classes; None where it cannot be read.
        classes: the names of the K classes.
        error: why it cannot be read, or "".
    """

    video: str
    scores: Tensor | None
    classes: Sequence[str]
    error: str = ""

    def top(self, count: int = 5) -> list[tuple[str, float]]:
        """The ``count`` most probable classes and their probabilities, the best first; [] without scores."""
        if self.scores is None:
            return []
        values, positions = self.scores.topk(min(count, len(self.scores)))
        return [
            (self.classes[position], value) for position, value in zip(positions.tolist(), values.tolist(), strict=True)
        ]


@dataclass(frozen=True)
class VideoFeatures:
    """What a model sees in a video.

    Attributes:
        video: its path.
        values: features (D,), (t, D) or (N, D), float32; None where it cannot be read.
        error: why it cannot be read, or "".
    """

    video: str
    values: Tensor | None
    error: str = ""


@dataclass(frozen=True)
class SavedModel:
    """A model with all that using it takes; made by :func:`videofib.load`.

    Attributes:
        model: (B, C, T, H, W) -> logits (B, K), in evaluation mode.
        classes: the names of the K classes; the numbers of the classes where nobody has named them.
        cfg: the config of its run: how a video becomes its input, and how it is tested.
        name: where it was loaded from.
        epoch: epochs trained, None where that is not known.
        results: what a test of these weights measured: ``top1_acc`` and ``top5_acc`` or ``mAP``, in percent, of
            ``num_videos`` with ``num_views`` each; {} where nothing is known.
        precision: of ``PRECISIONS``: in which the model computes; its weights stay as they are.
        compiled: ``model`` is compiled (``torch.compile``), as what computes features then is, too.
        task: of a model of several tasks, the one that it computes.
    """

    model: nn.Module
    classes: Sequence[str]
    cfg: CfgNode
    name: str
    epoch: int | None = None
    results: Mapping[str, float] = field(default_factory=dict)
    precision: str = "fp32"
    compiled: bool = False
    task: str | None = None

    @property
    def views(self) -> tuple[int, int]:
        """(temporal clips, spatial crops) of each video in its tests."""
        return testing_views(self.cfg)

    @property
    def input(self) -> dict[str, object]:
        """How a video becomes the model's input, as plain values; ``short_side`` and crops are those of one crop."""
        dataset = view_dataset(self.cfg, Records.unlabelled([]), 1, 1)
        return describe_input(dataset)

    def predict(
        self,
        video: str | Path | np.ndarray | Tensor,
        *,
        views: tuple[int, int] | None = None,
        top: int = 5,
        fps: float | None = None,
    ) -> list[tuple[str, float]]:
        """The most probable classes of a video and their probabilities, the best first.

        Args:
            video: a file, a URL, or frames (T, H, W, 3), uint8 RGB.
            views: (temporal clips, spatial crops) over which scores are averaged; by default those of its tests.
            top: how many classes.
            fps: of frames, frames a second; by default DATA.TARGET_FPS.

        Raises:
            DecodeError: the video cannot be read.
            ValueError: frames of another shape or type.
        """
        if isinstance(video, str | Path):
            (prediction,) = self.predict_all([video], views=views)
            if prediction.error:
                raise DecodeError(prediction.error)
            return prediction.top(top)
        logits = self._logits_of(_frames(video), views, fps)
        return Prediction("", self.probabilities(logits)[0], self.classes).top(top)

    def predict_all(
        self, videos: Sequence[str | Path | NamedVideo], *, views: tuple[int, int] | None = None, num_workers: int = 0
    ) -> Iterator[Prediction]:
        """Predictions for many videos, in their order; forward passes are full across videos.

        A video that cannot be read, or, with workers, crashes its reader or takes longer than DATA_LOADER.TIME_LIMIT,
        has an ``error`` and no scores, and the others are not affected.

        Args:
            num_workers: processes that read ahead; 0: read in this one.
        """
        for video, logits, error in self._outputs(self.model, videos, views, num_workers):
            scores = None if logits is None else self.probabilities(logits)[0]
            if scores is not None and not scores.isfinite().all():
                scores, error = None, f"{video}: the model's scores are not finite"
            yield Prediction(video, scores, self.classes, error)

    def features(
        self,
        video: str | Path | np.ndarray | Tensor,
        *,
        views: tuple[int, int] | None = None,
        kind: str = "pooled",
        block: int = LAST,
    ) -> Tensor:
        """The features of a video: the mean over its views, element by element.

        The mean of ``frames`` and ``tokens`` is over clips and crops that show other moments and other parts of the
        frame; take ``views=(1, 1)`` where it matters which. Each token is normalised by the model's last norm.

        Args:
            views: as for :meth:`predict`.
            kind: ``pooled``, (D,), as the classifier sees them; ``frames``, (t, D), the mean over the tokens of each
                frame or layer of tubelets; ``tokens``, (N, D), frame after frame, without class token and registers.
            block: whose output; counted from 0, or from the end below 0.

        Raises:
            DecodeError: the video cannot be read.
            ValueError: a model without such features, no such kind or block, or frames of another shape or type.
        """
        if isinstance(video, str | Path):
            (found,) = self.features_all([video], views=views, kind=kind, block=block)
            if found.values is None:
                raise DecodeError(found.error)
            return found.values
        return self._logits_of(_frames(video), views, None, FeatureModel(self.model, kind, block))[0].mean(dim=0)

    def features_all(
        self,
        videos: Sequence[str | Path | NamedVideo],
        *,
        views: tuple[int, int] | None = None,
        kind: str = "pooled",
        block: int = LAST,
        num_workers: int = 0,
    ) -> Iterator[VideoFeatures]:
        """The features of many videos, in their order, each as :meth:`features` gives them.

        Forward passes, workers and videos that cannot be read are as in :meth:`predict_all`.

        Raises:
            ValueError: a model without such features, or no such kind, block or views; before any video is read.
        """
        model = FeatureModel(self.model, kind, block)
        return self._features(model, videos, self._checked(views), num_workers)

    def explain(
        self,
        video: str | Path | np.ndarray | Tensor,
        *,
        label: str | None = None,
        methods: Sequence[str] | None = None,
        block: int | None = None,
        views: tuple[int, int] = (1, 1),
        fps: float | None = None,
        check: bool = False,
    ) -> Explanation:
        """What the model looked at in a video: heat on its grid of tokens, computed in 32 bits.

        ``rollout`` is attention rollout (arXiv 2005.00928), which depends on no class; ``gradcam`` is Grad-CAM (arXiv
        1610.02391), for one class; see :mod:`videofib.models.explain`.

        Args:
            video, views, fps: as for :meth:`predict`; by default the centre of the middle clip.
            label: the name of the class that Grad-CAM explains; by default the most probable one.
            methods: ``rollout``, ``gradcam`` or both; by default all that the model has. Baselines have Grad-CAM, on
                their last feature map.
            block: of Grad-CAM, see :func:`videofib.models.explain.grad_cam`.
            check: also compute deletion curves, by some 100 to 150 more forward passes a view: how the probability of
                the class falls as the hottest patches are removed, and as random ones are.

        Raises:
            DecodeError: the video cannot be read.
            ValueError: no such class, method or block, a model that has not the method, or frames of another shape or
                type.
        """
        return explain(
            self,
            str(video) if isinstance(video, str | Path) else _frames(video),
            views=self._checked(views),
            label=label,
            methods=methods,
            block=block,
            fps=fps or self.cfg.DATA.TARGET_FPS,
            check=check,
        )

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model with all that using it takes, for ``load`` and, where it is a TimeSformer, for transformers.

        ``model.safetensors``, ``config.json``, ``preprocessor_config.json`` and a model card, ``README.md``. Sparse
        attention needs the code that is then written beside them, which transformers runs with
        ``trust_remote_code=True`` only.

        Raises:
            CheckpointError: the folder cannot be written.
        """
        return save(self, folder)

    def push_to_hub(
        self,
        repository: str,
        *,
        private: bool | None = None,
        token: str | None = None,
        revision: str | None = None,
        message: str = "Upload a model of videofib",
    ) -> str:
        """Upload what :meth:`save_pretrained` writes to the Hugging Face Hub, and return the URL of the commit.

        The repository is made where there is none. Of one that is there, a model card stays as it is.

        Args:
            repository: ``owner/model``.
            private: whether a new repository is; by default as the owner's settings say.
            token: by default the one that ``hf auth login`` has stored.
            revision: a branch that exists; by default ``main``.
            message: of the commit.

        Raises:
            CheckpointError: it cannot be uploaded; the message says why.
        """
        with TemporaryDirectory() as folder:
            return upload(
                self.save_pretrained(folder),
                repository,
                private=private,
                token=token,
                revision=revision,
                message=message,
            )

    @classmethod
    def from_pretrained(cls, source: str | Path, **options: Any) -> SavedModel:
        """The same as :func:`videofib.load`, with its arguments, under the name that others give to it."""
        from videofib.run.load import load  # here, since that module imports this one

        return load(source, **options)

    def to(self, device: str | torch.device) -> SavedModel:
        """The same with its model moved to a device.

        Raises:
            ConfigError: the device does not compute in its precision.
        """
        if lacking := unsupported(self.precision, torch.device(device)):
            raise ConfigError(f"precision {self.precision} {lacking}; load the model in another one")
        return replace(self, model=self.model.to(device))

    def _features(
        self,
        model: nn.Module,
        videos: Sequence[str | Path | NamedVideo],
        views: tuple[int, int] | None,
        num_workers: int,
    ) -> Iterator[VideoFeatures]:
        for video, outputs, error in self._outputs(model, videos, views, num_workers):
            values = None if outputs is None else outputs[0].mean(dim=0)
            if values is not None and not values.isfinite().all():
                values, error = None, f"{video}: the model's features are not finite"
            yield VideoFeatures(video, values, error)

    def _outputs(
        self,
        model: nn.Module,
        videos: Sequence[str | Path | NamedVideo],
        views: tuple[int, int] | None,
        num_workers: int,
    ) -> Iterator[tuple[str, Tensor | None, str]]:
        """(name, outputs (1, V, ...) or None, why not) of each video."""
        names = [str(video) for video in videos]
        cfg = _with(self.cfg, num_workers)
        with ExitStack() as stack:
            loader = stack.enter_context(build_video_loader(cfg, videos, *self._checked(views)))
            for batch, outputs in self.computed(loader, len(loader), model):
                failed = dict(batch["failures"])
                for index, rows in zip(batch["indices"].tolist(), outputs, strict=True):
                    error = failed.get(names[index], "")
                    yield names[index], None if error else rows[None], error

    def _logits_of(
        self, frames: np.ndarray, views: tuple[int, int] | None, fps: float | None, model: nn.Module | None = None
    ) -> Tensor:
        """The logits (1, V, K) of the views of frames in memory, or what else ``model`` gives."""
        read = view_dataset(
            self.cfg, Records.unlabelled([]), *self._checked(views), view_starts=self.cfg.TEST.VIEW_STARTS
        ).read
        batch = {"views": read.of_frames(frames, fps or self.cfg.DATA.TARGET_FPS)[None]}
        ((_, outputs),) = self.computed([batch], 1, model)
        return outputs

    def computed(
        self,
        batches: Iterable[dict],
        total: int,
        model: nn.Module | None = None,
        *,
        most: int | None = None,
        title: str = "predict",
    ) -> Iterator[tuple[dict, Tensor]]:
        """The batches without their views, each with the logits (B, V, K) of these, or what else ``model`` gives.

        A model that is compiled is given passes of one size, since it is compiled for each.

        Args:
            total: how many batches there are.
            most: views of a forward pass, where TEST.BATCH_SIZE is larger.
            title: of the progress that is reported.
        """
        if self.compiled and model is not None:  # self.model is compiled already
            model.compile(dynamic=False)
        size, dtype = min(self.cfg.TEST.BATCH_SIZE, most or sys.maxsize), PRECISIONS[self.precision]
        return score_batches(model or self.model, batches, size, dtype, title, fill_last=self.compiled, total=total)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Logits of views (B, V, K) -> probabilities of videos (B, K), as a test makes them."""
        score, method = TASKS[self.cfg.MODEL.LOSS_FUNC].score, self.cfg.DATA.ENSEMBLE_METHOD
        if self.cfg.TEST.ENSEMBLE_LOGITS:
            return score(ensemble_views(logits, method))
        return ensemble_views(score(logits), method)

    def _checked(self, views: tuple[int, int] | None) -> tuple[int, int]:
        clips, crops = self.views if views is None else views
        if clips < 1 or crops not in (1, 3):
            raise ValueError(f"views must be (temporal clips, spatial crops), the latter 1 or 3; got {views}")
        return clips, crops


def _with(cfg: CfgNode, num_workers: int) -> CfgNode:
    changed = cfg.clone()
    changed.defrost()
    changed.DATA_LOADER.NUM_WORKERS = num_workers
    changed.freeze()
    return changed


def _frames(video: np.ndarray | Tensor) -> np.ndarray:
    frames = video.cpu().numpy() if isinstance(video, Tensor) else np.asarray(video)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
        raise ValueError(
            f"frames must be uint8 of shape (T, H, W, 3), got {frames.dtype} {tuple(frames.shape)}; a clip in "
            "torchvision's order (T, C, H, W) is permute(0, 2, 3, 1) of it"
        )
    return frames
