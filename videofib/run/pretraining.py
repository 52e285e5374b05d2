"""The pre-training stage: from the config to an objective without labels, for the trainer that trains with them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
from fvcore.common.config import CfgNode
from torch import nn

from videofib.checkpoint.file import ModelDescription, TrainingState
from videofib.checkpoint.lock import run_lock
from videofib.config import ConfigError
from videofib.config.rules import Rule
from videofib.data.lists.records import Records
from videofib.distributed import processes
from videofib.distributed.fsdp import shard
from videofib.distributed.mesh import data_rank, data_size, make_mesh
from videofib.engine.objective import Objective
from videofib.engine.randomness import seed_everything
from videofib.engine.shared_batches import shared
from videofib.engine.train import has_work, train
from videofib.models import TimeSformer
from videofib.models.pretrained.weight_files import read_weights
from videofib.pretraining.dino import Branch, MatchedViews, SelfDistillation
from videofib.pretraining.dino_head import PrototypeHead
from videofib.pretraining.dino_loss import NUM_GLOBAL, DinoLoss
from videofib.pretraining.mae import MaskedAutoencoder, MaskedPixels
from videofib.pretraining.patch_head import PatchHead
from videofib.pretraining.views import LocalViews
from videofib.run.loaders import build_train_loader, describe_input, read_records, view_dataset
from videofib.run.parts import load_into_model, model_from_config
from videofib.run.preflight import Faults, backend_faults, check_sharded_checkpoints, check_split, choose_amp_dtype
from videofib.run.training import (
    checkpoint_manager,
    log_sizes,
    optimizer_from_config,
    recipe_from_config,
    resume_from_config,
    schedule_from_config,
)

logger = logging.getLogger(__name__)

Made = tuple[nn.Module, Objective]


def _is_distilled(c: CfgNode) -> bool:
    return c.PRETRAIN.METHOD in ("dino", "selfpatch")


_RULES = (  # what pre-training cannot work with; a config may be for training from labels as well
    Rule(
        lambda c: c.PRETRAIN.METHOD == "none",
        "PRETRAIN.METHOD none: nothing to learn without labels; set it to mae, dino or selfpatch",
    ),
    Rule(
        lambda c: c.MODEL.MODEL_NAME != "TimeSformer",
        "only a TimeSformer is pre-trained, and MODEL.MODEL_NAME is {c.MODEL.MODEL_NAME}",
    ),
    Rule(lambda c: c.MIXUP.ENABLE, "MIXUP.ENABLE mixes labels, and pre-training has none; set it to False"),
    Rule(lambda c: c.DISTILL.CONFIG != "", "DISTILL is for learning from labels; set DISTILL.CONFIG ''"),
    Rule(
        lambda c: c.TRAIN.EMA_DECAY > 0,
        "TRAIN.EMA_DECAY averages what is validated, and pre-training validates nothing (the teacher of dino and "
        "selfpatch is an average already, see PRETRAIN.TEACHER_MOMENTUM); set it to 0",
    ),
    Rule(
        lambda c: c.TRAIN.CLASS_WEIGHTS != "none",
        "TRAIN.CLASS_WEIGHTS needs labels, which are not used; set it to none",
    ),
    Rule(
        lambda c: c.DATA_LOADER.SAMPLER == "class_balanced",
        "DATA_LOADER.SAMPLER class_balanced needs labels, which are not used; set it to shuffle",
    ),
    Rule(
        lambda c: c.TRAIN.LINEAR_PROBE or len(c.TRAIN.FREEZE) > 0,
        "pre-training trains all of the encoder; set TRAIN.LINEAR_PROBE False and TRAIN.FREEZE []",
    ),
    Rule(
        lambda c: c.TRAIN.CONTEXT_PARALLEL > 1,
        "processes cannot share the tokens of a clip in pre-training; set TRAIN.CONTEXT_PARALLEL 1",
    ),
    Rule(lambda c: c.TRAIN.COMPILE, "pre-training is not compiled; set TRAIN.COMPILE False"),
    Rule(lambda c: c.MULTIGRID.LONG_CYCLE, "pre-training has clips of one size; set MULTIGRID.LONG_CYCLE False"),
    Rule(
        lambda c: _is_distilled(c) and c.AUG.NUM_SAMPLE != NUM_GLOBAL,
        "PRETRAIN.METHOD {c.PRETRAIN.METHOD} compares two clips of each video; set AUG.NUM_SAMPLE 2 (it is "
        "{c.AUG.NUM_SAMPLE})",
    ),
    Rule(
        lambda c: _is_distilled(c) and c.TRAIN.STRATEGY == "fsdp",
        "the teacher of PRETRAIN.METHOD {c.PRETRAIN.METHOD} is not sharded; set TRAIN.STRATEGY ddp",
    ),
)


def check_pretraining(cfg: CfgNode) -> None:
    """Check what pre-training needs before it begins; the model is tried on the meta device, which computes nothing.

    Raises:
        Faults: with all that was found.
        ManifestError: no usable list.
    """
    if faults := [rule.message.format(c=cfg) for rule in _RULES if rule.broken(cfg)]:
        raise Faults(faults)
    with torch.device("meta"):
        encoder = model_from_config(cfg)
        model, objective = build(cfg, encoder)
    if faults := backend_faults(cfg, encoder):
        raise Faults(faults)
    size, frames = cfg.DATA.TRAIN_CROP_SIZE, cfg.DATA.NUM_FRAMES
    clips = torch.empty(2, 3, frames, size, size, device="meta")
    try:
        with torch.no_grad():
            _, losses = encoder.eval()(clips, with_losses=True)
            objective(model.eval(), clips, torch.empty(0), {"views": torch.empty(1, NUM_GLOBAL, device="meta")})
    except (ValueError, RuntimeError) as error:
        message = " ".join(str(error).split())
        raise ConfigError(f"PRETRAIN.METHOD {cfg.PRETRAIN.METHOD} does not take these clips: {message}") from error
    if losses:
        raise ConfigError(f"pre-training does not add the losses of blocks to its own, such as {next(iter(losses))}")
    check_split(cfg, _records(cfg), "train")


def pretrain_from_config(cfg: CfgNode, stop: Callable[[], bool], accepted: Callable[[], None] = lambda: None) -> bool:
    """Pre-train the model that the config describes, resuming from its newest checkpoint where there is one.

    Arguments and result are those of ``train_from_config``.
    """
    device, mesh = processes.device(), make_mesh(1)
    amp_dtype = choose_amp_dtype(cfg, device)
    check_sharded_checkpoints(cfg)
    with ExitStack() as stack:
        stack.enter_context(run_lock(cfg.OUTPUT_DIR))
        loader = build_train_loader(cfg, data_rank(mesh), data_size(mesh), records=_records(cfg))
        loader = stack.enter_context(shared(loader, mesh))
        model, objective = _with_first_weights(cfg, amp_dtype)
        optimizer = optimizer_from_config(cfg, model)
        recipe = recipe_from_config(cfg, objective, amp_dtype)
        log_sizes(cfg, model, loader, None)

        state = TrainingState(model, optimizer, recipe.scaler)
        views = view_dataset(cfg, Records.unlabelled([]), 1, 1)
        description = ModelDescription(cfg.dump(), None, describe_input(views))
        checkpoints = checkpoint_manager(cfg, state, description, validated=False)
        start = resume_from_config(cfg, checkpoints)
        schedule = schedule_from_config(cfg, validated=False)
        if not has_work(loader, schedule, checkpoints, start):
            logger.info("all %d epochs are done, so there is nothing to pre-train", start.epoch)
            return False
        accepted()
        train(
            model,
            loader,
            optimizer,
            recipe,
            schedule,
            checkpoints=checkpoints,
            validate=dict,
            start=start,
            stop=stop,
            mesh=mesh,
        )
    return True


def build(cfg: CfgNode, encoder: nn.Module) -> Made:
    """What pre-trains an encoder, and its objective, as PRETRAIN says.

    Raises:
        ConfigError: sizes that do not fit, or an encoder that cannot be pre-trained in this way.
    """
    if not isinstance(encoder, TimeSformer):
        raise ConfigError(f"only a TimeSformer is pre-trained, not {type(encoder).__name__}")
    try:
        return (_autoencoder if cfg.PRETRAIN.METHOD == "mae" else _distillation)(cfg, encoder)
    except ValueError as error:
        raise ConfigError(f"PRETRAIN.METHOD {cfg.PRETRAIN.METHOD}: {error}") from error


def _autoencoder(cfg: CfgNode, encoder: TimeSformer) -> Made:
    options = cfg.PRETRAIN
    model = MaskedAutoencoder(
        encoder,
        decoder_dim=options.DECODER_DIM or None,
        decoder_depth=options.DECODER_DEPTH,
        decoder_num_heads=options.DECODER_HEADS or None,
        normalise=options.NORM_TARGETS,
    )
    return model, MaskedPixels(model, options.MASK_RATIO)


def _distillation(cfg: CfgNode, encoder: TimeSformer) -> Made:
    options = cfg.PRETRAIN
    dim, sizes = encoder.norm.normalized_shape[0], (options.HEAD_HIDDEN_DIM, options.HEAD_DIM)
    of_patches: list[Any] = []
    if options.METHOD == "selfpatch":
        head = PatchHead(dim, encoder.num_heads, neighbours=options.NEIGHBOURS, top_k=options.TOP_K, wrap=options.WRAP)
        of_patches = [head, PrototypeHead(dim, options.PATCH_PROTOTYPES, *sizes)]
    loss = DinoLoss(
        options.PROTOTYPES,
        options.PATCH_PROTOTYPES if of_patches else 0,
        student_temp=options.STUDENT_TEMP,
        teacher_temp=options.TEACHER_TEMP,
        warmup_teacher_temp=options.WARMUP_TEACHER_TEMP,
        warmup_epochs=options.WARMUP_TEMP_EPOCHS,
        center_momentum=options.CENTER_MOMENTUM,
        patch_weight=options.PATCH_WEIGHT,
    )
    model = SelfDistillation(Branch(encoder, PrototypeHead(dim, options.PROTOTYPES, *sizes), *of_patches), loss)
    local = LocalViews(
        options.LOCAL_VIEWS,
        options.LOCAL_CROP_SIZE,
        options.LOCAL_FRAMES or cfg.DATA.NUM_FRAMES,
        tuple(options.LOCAL_SCALE),
    )
    objective = MatchedViews(
        model,
        local,
        epochs=cfg.SOLVER.MAX_EPOCH,
        momentum=options.TEACHER_MOMENTUM,
        frozen_epochs=options.FROZEN_EPOCHS,
    )
    return model, objective


def _with_first_weights(cfg: CfgNode, amp_dtype: torch.dtype | None) -> Made:
    """The model, the same in every process, and sharded as the config says."""
    seed_everything(cfg.RNG_SEED)
    encoder = model_from_config(cfg)
    if source := cfg.TRAIN.CHECKPOINT_FILE_PATH:
        load_into_model(cfg, encoder, read_weights(source, cfg.TRAIN.CHECKPOINT_PART))
    if cfg.PRETRAIN.METHOD != "dino" and cfg.TIMESFORMER.POOLING == "class_token" and processes.is_main():
        logger.warning(
            "PRETRAIN.METHOD %s learns what patches mean, and not what the class token does at the end; with "
            "TIMESFORMER.POOLING mean, fine-tuning starts from features that were learned",
            cfg.PRETRAIN.METHOD,
        )
    model, objective = build(cfg, encoder)
    model = model.to(processes.device())
    if cfg.TRAIN.STRATEGY == "fsdp":
        shard(model, amp_dtype)
    return model, objective


def _records(cfg: CfgNode) -> Records:
    """The videos of the train split; labels that the list may have are not used."""
    return read_records(cfg, "train", needs_labels=False).without_labels()
