"""Distillation from the config: whose features count, and clips that are made where no videos are to be read."""

from __future__ import annotations

import torch
from fvcore.common.config import CfgNode
from torch import nn

from videofib.config import ConfigError
from videofib.distributed import processes
from videofib.engine.distill import Distillation
from videofib.engine.feature_match import PROJECTION, FeatureMatch, projections
from videofib.engine.objective import Objective, Synthesised
from videofib.engine.synthetic import ClipSource, GaussianNoise, PriorWeights, SyntheticClips, TrainedGenerator
from videofib.models.clip_generator import ClipGenerator
from videofib.models.taps import AttentionTaps, PatchTaps


def makes_clips(cfg: CfgNode) -> bool:
    """Whether training makes its clips, and reads no videos."""
    return cfg.DISTILL.DATA_FREE != "none"


def feature_match(cfg: CfgNode, model: nn.Module, teacher: nn.Module) -> FeatureMatch | None:
    """Which features of a teacher count; the linear maps that it takes become a part of the model.

    Raises:
        ConfigError: features that cannot be compared.
    """
    if not cfg.DISTILL.FEATURE_WEIGHT:
        return None
    try:
        blocks = zip(*cfg.DISTILL.FEATURE_BLOCKS, strict=True)
        taps = [
            PatchTaps(each, own, whose)
            for each, own, whose in zip((model, teacher), blocks, ("the student", "the teacher"), strict=True)
        ]
        clip = torch.zeros(1, *clip_shape(cfg), device=processes.device())
        maps = projections(model, teacher, (taps[0], taps[1]), clip)
    except ValueError as error:
        raise ConfigError(f"DISTILL.FEATURE_BLOCKS {cfg.DISTILL.FEATURE_BLOCKS}: {error}") from error
    model.add_module(PROJECTION, maps)
    return FeatureMatch(taps[0], taps[1], cfg.DISTILL.FEATURE_WEIGHT, maps)


def distillation(cfg: CfgNode, teacher: nn.Module | None, features: FeatureMatch | None) -> Distillation | None:
    """What the teacher adds to the loss."""
    return Distillation(teacher, cfg.DISTILL.ALPHA, cfg.DISTILL.TEMPERATURE, features) if teacher else None


def clip_shape(cfg: CfgNode) -> tuple[int, int, int, int]:
    """(C, T, H, W) of training clips."""
    return (3, cfg.DATA.NUM_FRAMES, cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.TRAIN_CROP_SIZE)


def synthetic_clips(cfg: CfgNode, teacher: nn.Module, student: nn.Module, num_parts: int) -> SyntheticClips:
    """The batches of a process that DISTILL.DATA_FREE and SYNTHETIC describe, which no videos are read for.

    Args:
        num_parts: over how many processes a batch is divided.

    Raises:
        ConfigError: a teacher whose attention cannot be seen.
    """
    return SyntheticClips(
        _source(cfg, teacher, student),
        teacher,
        steps=cfg.SYNTHETIC.EPOCH_STEPS,
        batch_size=cfg.TRAIN.BATCH_SIZE // num_parts,
    )


def _source(cfg: CfgNode, teacher: nn.Module, student: nn.Module) -> ClipSource:
    options, device = cfg.SYNTHETIC, processes.device()
    if cfg.DISTILL.DATA_FREE == "noise":
        return GaussianNoise(clip_shape(cfg), device)
    try:
        attention = AttentionTaps(teacher, "the teacher").watching if options.ENTROPY_WEIGHT else None
    except ValueError as error:
        raise ConfigError(f"SYNTHETIC.ENTROPY_WEIGHT: {error}; set it to 0") from error
    generator = ClipGenerator(
        cfg.MODEL.NUM_CLASSES, clip_shape(cfg), cfg.DATA.MEAN, cfg.DATA.STD, options.LATENT_DIM, options.WIDTH
    )
    weights = PriorWeights(
        balance=options.BALANCE_WEIGHT,
        entropy=options.ENTROPY_WEIGHT,
        total_variation=options.VARIATION_WEIGHT,
        smoothness=options.SMOOTHNESS_WEIGHT,
        adversarial=options.ADVERSARIAL_WEIGHT,
    )
    return TrainedGenerator(
        generator.to(device),
        teacher,
        cfg.MODEL.NUM_CLASSES,
        options.LATENT_DIM,
        lr=options.GENERATOR_LR,
        steps=options.GENERATOR_STEPS,
        weights=weights,
        attention=attention,
        student=student if options.ADVERSARIAL_WEIGHT else None,
    )


def with_figures(cfg: CfgNode, objective: Objective) -> Objective:
    """The objective, which also logs what a generator says of its clips."""
    return Synthesised(objective, TrainedGenerator.figures) if cfg.DISTILL.DATA_FREE == "generator" else objective
