"""Networks to compare video transformers with, built by pytorchvideo.

All take clips (B, 3, T, H, W) and return raw logits (B, K), in training and in evaluation mode, since the loss and the
evaluation apply softmax themselves. Parameters have pytorchvideo's names, so that weights of its model zoo fit.

Axes: B batch, T frames, H W image, h w feature map, D width, K classes. Importing pytorchvideo takes seconds, so this
module is imported only when a baseline is built.
"""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore", FutureWarning)  # of torch.jit.script, which these modules call as they are imported
    from pytorchvideo.models.head import ResNetBasicHead
    from pytorchvideo.models.net import Net
    from pytorchvideo.models.r2plus1d import create_r2plus1d
    from pytorchvideo.models.resnet import ResBlock
    from pytorchvideo.models.slowfast import PoolConcatPathway, create_slowfast
    from pytorchvideo.models.vision_transformers import (
        MultiscaleVisionTransformers,
        create_multiscale_vision_transformers,
    )
    from pytorchvideo.models.x3d import create_x3d

from videofib.models.baseline_stages import Asked, Staged

STRIDE = 32  # pixels of the frame for each position of the last feature map, in all of these networks


def slowfast_r50(
    num_classes: int = 400, num_frames: int = 32, crop_size: int = 224, alpha: int = 4, dropout: float = 0.5
) -> SlowFast:
    """SlowFast networks (arXiv 1812.03982) with ResNet-50; the defaults are the published 8x8 setting.

    Args:
        num_classes: K.
        num_frames: T, of the fast pathway; other multiples of alpha work, too.
        crop_size: H = W in training, the size of one pooling window; other sizes work, too.
        alpha: the slow pathway sees T / alpha frames.
        dropout: before the classifier.

    Raises:
        ValueError: sizes that do not fit; the message gives them.
    """
    _check_crop_size(crop_size)
    _check_alpha(num_frames, alpha)
    built = create_slowfast(
        model_num_class=num_classes,
        dropout_rate=dropout,
        slowfast_fusion_conv_kernel_size=(7, 1, 1),
        slowfast_fusion_conv_stride=(alpha, 1, 1),
    )
    built.blocks[-2].pool = nn.ModuleList(WindowPool(crop_size) for _ in ("slow", "fast"))
    again = partial(slowfast_r50, num_classes, num_frames, crop_size, alpha, dropout)
    return SlowFast(built.blocks, again, alpha)


def x3d(num_classes: int = 400, crop_size: int = 160, dropout: float = 0.5) -> ConvNet:
    """X3D (arXiv 2004.04730); S and M are one network, S trained on 13 x 6 frames of 160 pixels, M on 16 x 5 of 224.

    Args:
        num_classes: K.
        crop_size: H = W in training, the size of one pooling window; other sizes work, too.
        dropout: before the classifier.

    Raises:
        ValueError: a crop size that is too small; the message gives it.
    """
    _check_crop_size(crop_size)
    built = create_x3d(
        model_num_class=num_classes,
        dropout_rate=dropout,
        inner_act=nn.SiLU,  # the same function as pytorchvideo's own Swish, whose autograd API is deprecated
        head_activation=None,
    )
    built.blocks[-1].pool.pool = WindowPool(crop_size)
    for module in built.modules():
        if isinstance(module, ResBlock):
            module.branch_fusion = operator.add  # instead of a lambda, which does the same but cannot be pickled
    return ConvNet(built.blocks, partial(x3d, num_classes, crop_size, dropout))


def r2plus1d_r50(num_classes: int = 400, crop_size: int = 224, dropout: float = 0.5) -> ConvNet:
    """R(2+1)D (arXiv 1711.11248) with the bottlenecks of ResNet-50; published by pytorchvideo for 16 x 4 frames.

    Args:
        num_classes: K.
        crop_size: H = W in training, the size of one pooling window; other sizes work, too.
        dropout: before the classifier.

    Raises:
        ValueError: a crop size that is too small; the message gives it.
    """
    _check_crop_size(crop_size)
    built = create_r2plus1d(model_num_class=num_classes, dropout_rate=dropout, head_activation=None)
    built.blocks[-1].pool = WindowPool(crop_size)
    return ConvNet(built.blocks, partial(r2plus1d_r50, num_classes, crop_size, dropout))


def mvit_b(
    num_classes: int = 400, num_frames: int = 16, crop_size: int = 224, dropout: float = 0.5, drop_path: float = 0.2
) -> MViT:
    """Multiscale vision transformer (arXiv 2104.11227), MViT-B; the defaults are the published 16x4 setting.

    Args:
        num_classes: K.
        num_frames, crop_size: T and H = W; the position embedding fits no others.
        dropout: before the classifier.
        drop_path: rate of stochastic depth, which rises linearly to this in the last block.

    Raises:
        ValueError: sizes that do not divide; the message gives them.
    """
    _check_crop_size(crop_size)
    if num_frames % 2 or crop_size % 4:
        raise ValueError(
            "MViT's patches are 2 frames by 4 x 4 pixels, so T must be a multiple of 2 and the crop size of 4; "
            f"got T={num_frames}, crop size {crop_size}"
        )
    with torch.device("cpu"):  # its constructor reads values of tensors, and the meta device has none
        built = create_multiscale_vision_transformers(
            spatial_size=crop_size,
            temporal_size=num_frames,
            embed_dim_mul=[[1, 2.0], [3, 2.0], [14, 2.0]],
            atten_head_mul=[[1, 2.0], [3, 2.0], [14, 2.0]],
            pool_q_stride_size=[[1, 1, 2, 2], [3, 1, 2, 2], [14, 1, 2, 2]],
            pool_kv_stride_adaptive=[1, 8, 8],
            pool_kvq_kernel=[3, 3, 3],
            droppath_rate_block=drop_path,
            head_dropout_rate=dropout,
            head_num_classes=num_classes,
        )
    built.__class__ = MViT  # only now: its __init__ sets all its local names, and __class__ is among them
    built.again = partial(mvit_b, num_classes, num_frames, crop_size, dropout, drop_path)
    built.clip_shape = (3, num_frames, crop_size, crop_size)
    return built.to(torch.get_default_device())


class Baseline(Staged):
    """What these networks have in common.

    Attributes:
        again: builds the same network with new initial values.
    """

    again: Callable[[], nn.Module]

    @property
    def classifier(self) -> nn.Linear:
        """The final linear layer."""
        raise NotImplementedError

    @property
    def takes_last_map(self) -> nn.Module:
        """The module whose first argument is the last feature map: (B, D, t, h, w); of SlowFast a list, slow first; of
        MViT tokens (B, 1+t·h·w, D), with (t, h, w) as the second argument."""
        raise NotImplementedError

    def forward_features(self, video: Tensor) -> Tensor:
        """(B, 3, T, H, W) -> (B, D): what the classifier sees, averaged over the windows of crops that have several."""
        if not video.shape[0]:  # convolutional networks do not reach their classifier
            self(video)  # checks
            return video.new_empty(0, self.classifier.in_features)
        return self._seen_by_classifier(lambda: self(video))

    def _seen_by_classifier(self, run: Callable[[], object]) -> Tensor:
        """(B, D): what the classifier is given while ``run`` runs."""
        seen: list[Tensor] = []
        with self.classifier.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
            run()
        return seen[0].flatten(1).unflatten(1, (-1, self.classifier.in_features)).mean(dim=1)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Give all parameters and buffers initial values again, those of a new model under the same seed.

        A model built on the meta device becomes usable by ``model.to_empty(device=...)`` and this. pytorchvideo
        initialises a network only while it builds it, so a second one is built, whose memory is freed again.
        """
        with torch.device("cpu"):
            initial = self.again().state_dict()
        for name, tensor in self.state_dict().items():
            tensor.copy_(initial[name])


class ConvNet(Net, Baseline):
    """A convolutional network with one pathway: (B, 3, T, H, W) -> (B, K), H and W at least 32 pixels."""

    blocks: nn.ModuleList

    def __init__(self, blocks: nn.ModuleList, again: Callable[[], nn.Module]):
        super().__init__(blocks=blocks)
        self.again = again

    @property
    def classifier(self) -> nn.Linear:
        return cast(nn.Linear, self.blocks[-1].proj)

    @property
    def takes_last_map(self) -> nn.Module:
        return self.blocks[-1]

    @property
    def num_stages(self) -> int:
        """The stem and the groups of residual blocks."""
        return sum(not isinstance(block, ResNetBasicHead | PoolConcatPathway) for block in self.blocks)

    def _pathways(self, video: Tensor) -> Tensor | list[Tensor]:
        """The input of the stem."""
        return video

    def _through_stages(self, video: Tensor, asked: Asked, norm: bool) -> tuple[Tensor, list]:
        if norm:
            raise ValueError(f"norm=True asks for the last norm, and a {type(self).__name__} has none")
        _check_clips(video)
        x, kept = self._pathways(video), []
        for stage in self.blocks[: asked.stop or self.num_stages]:
            x = stage(x)
            kept.append(tuple(x) if isinstance(x, list) else (x,))  # later stages put others into the list
        features = video.new_empty(0)
        if asked.stop is None:
            features = self._seen_by_classifier(lambda: _through(self.blocks[self.num_stages :], x))
        return features, [asked.show_maps(kept[stage]) for stage in asked.stages]

    def forward(self, video: Tensor) -> Tensor:
        _check_clips(video)
        return super().forward(video) if video.shape[0] else self._no_logits(video)

    def _no_logits(self, video: Tensor) -> Tensor:
        """(0, 3, T, H, W) -> (0, K), with zero gradients; batch norms would take NaN as the mean of no clips."""
        return video.new_empty(0, self.classifier.out_features) + sum(
            parameter.sum() for parameter in self.parameters()
        )


class SlowFast(ConvNet):
    """Two pathways from one clip: (B, 3, T, H, W) -> (B, K), T a multiple of alpha, H and W at least 32."""

    def __init__(self, blocks: nn.ModuleList, again: Callable[[], nn.Module], alpha: int):
        super().__init__(blocks, again)
        self.alpha = alpha

    @property
    def takes_last_map(self) -> nn.Module:
        return self.blocks[-2]  # pools each pathway

    def forward(self, video: Tensor) -> Tensor:
        _check_clips(video)
        return Net.forward(self, self._pathways(video)) if video.shape[0] else self._no_logits(video)

    def _pathways(self, video: Tensor) -> list[Tensor]:
        """[slow (B, 3, T / alpha, H, W), fast (B, 3, T, H, W)]."""
        return [video.index_select(2, slow_frames(video.shape[2], self.alpha).to(video.device)), video]


class MViT(MultiscaleVisionTransformers, Baseline):
    """(B, 3, T, H, W) -> (B, K), for the one clip size that it was built for."""

    clip_shape: tuple[int, int, int, int]

    @property
    def classifier(self) -> nn.Linear:
        return cast(nn.Linear, self.head.proj)

    @property
    def takes_last_map(self) -> nn.Module:
        return cast(nn.ModuleList, self.blocks)[-1]

    def no_weight_decay(self) -> set[str]:
        """Class token and position embeddings, as in TimeSformer.

        PySlowFast exempts them by default, too, but not in its recipe for this model (MVIT.ZERO_DECAY_POS_CLS False).
        """
        return {name for name, _ in self.named_parameters() if name.startswith("cls_positional_encoding.")}

    @property
    def num_stages(self) -> int:
        """The blocks."""
        return len(cast(nn.ModuleList, self.blocks))

    def _through_stages(self, video: Tensor, asked: Asked, norm: bool) -> tuple[Tensor, list]:
        self._check_clip(video)
        positions: Any = self.cls_positional_encoding
        last_norm, head = cast(nn.LayerNorm, self.norm_embed), cast(nn.Module, self.head)
        x, grid = positions(cast(nn.Module, self.patch_embed)(video)), positions.patch_embed_shape
        width, kept = last_norm.normalized_shape[-1], []
        for stage, block in enumerate(cast(nn.ModuleList, self.blocks)[: asked.stop]):
            x, grid = block(x, grid)
            if norm and stage in asked.stages and x.shape[-1] != width:
                raise ValueError(
                    f"norm=True applies MViT's last norm, of {width} features, and stage {stage} has {x.shape[-1]}"
                )
            kept.append((last_norm(x) if norm and stage in asked.stages else x, grid))
        features = video.new_empty(0)
        if asked.stop is None:
            features = self._seen_by_classifier(lambda: head(last_norm(x)))
        num_prefix = int(positions.cls_embed_on)
        return features, [asked.show_tokens(*kept[stage], num_prefix) for stage in asked.stages]

    def forward(self, video: Tensor) -> Tensor:
        self._check_clip(video)
        return super().forward(video)

    def _check_clip(self, video: Tensor) -> None:
        if tuple(video.shape[1:]) != self.clip_shape:
            expected = ", ".join(map(str, self.clip_shape))
            raise ValueError(f"this MViT was built for clips (B, {expected}), got {_show(video)}")


class WindowPool(nn.Module):
    """(B, D, T, h, w) -> (B, D, 1, h', w'): mean over all frames, and over windows of a training crop's size.

    A crop up to the training size is one window. A larger crop has several: each is classified and the head averages
    their logits, which the authors call fully convolutional testing (PySlowFast averages softmax scores instead).
    """

    def __init__(self, crop_size: int):
        super().__init__()
        self.size = math.ceil(crop_size / STRIDE)

    def forward(self, x: Tensor) -> Tensor:
        frames, height, width = x.shape[2:]
        return F.avg_pool3d(x, (frames, min(height, self.size), min(width, self.size)), stride=1)


def _through(blocks: nn.ModuleList, x: object) -> object:
    for block in blocks:
        x = block(x)
    return x


def slow_frames(num_frames: int, alpha: int) -> Tensor:
    """Indices of the T / alpha frames of the slow pathway, evenly spaced from first to last as in PySlowFast.

    Raises:
        ValueError: T is not a multiple of alpha.
    """
    _check_alpha(num_frames, alpha)
    # on the CPU, since a GPU may round 13 to 12.999999 where the CPU does not
    return torch.linspace(0, num_frames - 1, num_frames // alpha, device="cpu").long()


def _check_alpha(num_frames: int, alpha: int) -> None:
    if alpha < 1 or num_frames % alpha:
        raise ValueError(f"SlowFast needs T to be a multiple of alpha; got T={num_frames}, alpha={alpha}")


def _check_crop_size(size: int) -> None:
    if size < STRIDE:
        raise ValueError(f"crops must be at least {STRIDE} pixels, got crop size {size}")


def _check_clips(video: Tensor) -> None:
    if video.ndim != 5 or video.shape[1] != 3 or min(video.shape[3:]) < STRIDE:
        raise ValueError(f"expected clips (B, 3, T, H, W) with H and W at least {STRIDE} pixels, got {_show(video)}")


def _show(video: Tensor) -> str:
    return f"({', '.join(str(int(size)) for size in video.shape)})"
