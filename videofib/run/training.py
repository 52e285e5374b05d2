"""The training stage: from the config to the parts of a training, and where it goes on."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import nn

from videofib.checkpoint.file import CheckpointError, find_checkpoints, latest_checkpoint, resume, save_checkpoint
from videofib.checkpoint.retention import BestKeeper, remove_old
from videofib.config import ConfigError, differences
from videofib.data.loading.multigrid import MultigridStage, stage_at
from videofib.distributed import processes
from videofib.distributed.fsdp import shard, whole_copy
from videofib.distributed.mesh import data_rank, data_size, make_mesh
from videofib.engine.distill import Distillation
from videofib.engine.freezing import freeze, freeze_all_but
from videofib.engine.optim import build_optimizer, lr_at, parameter_groups
from videofib.engine.randomness import seed_everything
from videofib.engine.shared_batches import shared
from videofib.engine.step import Recipe
from videofib.engine.train import Position, train
from videofib.files import remove_partial
from videofib.models import TimeSformer
from videofib.models.pretrained.load import classifier_names
from videofib.models.pretrained.weight_files import read_weights
from videofib.run.loaders import build_eval_loader, build_train_loader, multigrid_stages
from videofib.run.parts import bring_weights, evaluate_from_config, model_from_config, teacher_from_config
from videofib.run.preflight import (
    check_compiler,
    check_shares,
    check_split,
    choose_amp_dtype,
    read_class_names,
    warn_of_flips,
)

logger = logging.getLogger(__name__)


def train_from_config(cfg: CfgNode, stop: Callable[[], bool]) -> None:
    """Train the model the config describes, going on from its newest checkpoint where there is one."""
    device, mesh = processes.device(), make_mesh(cfg.TRAIN.CONTEXT_PARALLEL)
    amp_dtype = choose_amp_dtype(cfg, device)
    check_compiler(cfg, device)
    check_shares(cfg)
    train_loader = shared(build_train_loader(cfg, data_rank(mesh), data_size(mesh)), mesh)
    val_loader = shared(build_eval_loader(cfg, "val", data_rank(mesh), data_size(mesh)), mesh)
    class_names = read_class_names(cfg)
    check_split(cfg, train_loader, "train")
    check_split(cfg, val_loader, "val")
    warn_of_flips(cfg, class_names)

    seed_everything(cfg.RNG_SEED)  # the same first weights in every process
    model = model_from_config(cfg, mesh).to(device)
    if source := cfg.TRAIN.CHECKPOINT_FILE_PATH:
        bring_weights(cfg, model, read_weights(source))
    _freeze(cfg, model)
    ema = ModelEmaV3(model, decay=cfg.TRAIN.EMA_DECAY) if cfg.TRAIN.EMA_DECAY else None
    if cfg.TRAIN.STRATEGY == "fsdp":
        for whole in [model, *([ema.module] if ema else [])]:
            shard(whole, amp_dtype if isinstance(model, TimeSformer) else None)
    optimizer = build_optimizer(
        _parameter_groups(cfg, model),
        cfg.SOLVER.OPTIMIZING_METHOD,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        betas=cfg.SOLVER.BETAS,
    )
    recipe = recipe_from_config(cfg, amp_dtype, ema)
    if teacher := teacher_from_config(cfg):
        learning = Distillation(teacher.to(device), cfg.DISTILL.ALPHA, cfg.DISTILL.TEMPERATURE)
        recipe = replace(recipe, distillation=learning)
    logger.info(
        "%s with %.2f M parameters, of which %.2f M learn; %d train and %d val videos; %d process(es) on %s",
        cfg.MODEL.MODEL_NAME,
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad) / 1e6,
        len(train_loader.dataset.records),
        len(val_loader.dataset.records),
        processes.world_size(),
        device.type,
    )

    state = {"scaler": recipe.scaler, "ema": ema.module if ema else None}
    checkpoints = Path(cfg.OUTPUT_DIR) / "checkpoints"
    start = _resume_from(cfg, checkpoints, model, optimizer, **state)
    best = _best_keeper(cfg, checkpoints, start.epoch) if processes.is_main() else None

    def save(position: Position) -> None:
        save_checkpoint(
            checkpoints,
            model=model,
            optimizer=optimizer,
            config=cfg.dump(),
            in_shares=cfg.TRAIN.SHARDED_CHECKPOINTS,
            **vars(position),
            **state,
        )
        if best:
            best.remove_old()
        elif processes.is_main():
            remove_old(checkpoints, cfg.CHECKPOINT.KEEP)

    def validate() -> dict:
        evaluated = whole_copy(ema.module if ema else model, lambda: model_from_config(cfg, mesh))
        return evaluate_from_config(cfg, evaluated, val_loader, class_names, amp_dtype, "validate", mesh=mesh)[0]

    if cfg.TRAIN.COMPILE:
        # in place: names of weights stay, and the copy that ema holds is not compiled; for each size of clips anew,
        # since torch 2.14 fails on sizes left open
        model.compile(dynamic=False)
    train(
        model,
        train_loader,
        optimizer,
        recipe,
        epochs=cfg.SOLVER.MAX_EPOCH,
        start=start,
        seed=cfg.RNG_SEED,
        log_period=cfg.LOG_PERIOD,
        save=save,
        checkpoint_period=cfg.TRAIN.CHECKPOINT_PERIOD,
        checkpoint_steps=cfg.TRAIN.CHECKPOINT_STEPS,
        validate=validate,
        eval_period=cfg.TRAIN.EVAL_PERIOD,
        best=best,
        stop=stop,
        mesh=mesh,
    )


def _freeze(cfg: CfgNode, model: nn.Module) -> None:
    """Take out of the training what TRAIN.FREEZE and TRAIN.LINEAR_PROBE say."""
    try:
        freeze(model, cfg.TRAIN.FREEZE)
    except ValueError as error:
        raise ConfigError(f"TRAIN.FREEZE: {error}") from error
    if cfg.TRAIN.LINEAR_PROBE:
        freeze_all_but(model, classifier_names(model))


def _best_keeper(cfg: CfgNode, checkpoints: Path, epoch: int) -> BestKeeper | None:
    metric = cfg.CHECKPOINT.METRIC
    if metric == "auto":
        metric = {"cross_entropy": "top1_acc", "bce_logit": "mAP"}[cfg.MODEL.LOSS_FUNC]
    return None if metric == "none" else BestKeeper(checkpoints, metric, epoch, cfg.CHECKPOINT.KEEP)


def _parameter_groups(cfg: CfgNode, model: nn.Module) -> list[dict]:
    try:
        return parameter_groups(
            model,
            cfg.SOLVER.WEIGHT_DECAY,
            decay_all=not cfg.SOLVER.ZERO_WD_1D_PARAM,
            layer_decay=cfg.SOLVER.LAYER_DECAY,
        )
    except ValueError as error:
        raise ConfigError(f"SOLVER.LAYER_DECAY: {error}; set it to 1.0") from error


def recipe_from_config(cfg: CfgNode, amp_dtype: torch.dtype | None, ema: ModelEmaV3 | None) -> Recipe:
    """How the config's SOLVER, MIXUP and batch sizes make an optimizer step."""
    smoothing = cfg.MIXUP.LABEL_SMOOTH_VALUE
    mix = None
    if cfg.MIXUP.ENABLE:
        mix = Mixup(
            mixup_alpha=cfg.MIXUP.ALPHA,
            cutmix_alpha=cfg.MIXUP.CUTMIX_ALPHA,
            prob=cfg.MIXUP.PROB,
            switch_prob=cfg.MIXUP.SWITCH_PROB,
            label_smoothing=smoothing,
            num_classes=cfg.MODEL.NUM_CLASSES,
        )
    scale = lr_scale(cfg)
    policy = partial(
        lr_at,
        base_lr=scale * cfg.SOLVER.BASE_LR,
        policy=cfg.SOLVER.LR_POLICY,
        max_epoch=cfg.SOLVER.MAX_EPOCH,
        end_lr=scale * cfg.SOLVER.COSINE_END_LR,
        steps=cfg.SOLVER.STEPS,
        relative_lrs=cfg.SOLVER.LRS,
        warmup_epochs=cfg.SOLVER.WARMUP_EPOCHS,
        warmup_start_lr=scale * cfg.SOLVER.WARMUP_START_LR,
    )
    return Recipe(
        lr_at=partial(_lr_of_stage, policy, multigrid_stages(cfg)) if cfg.MULTIGRID.LONG_CYCLE else policy,
        **_LOSSES[cfg.MODEL.LOSS_FUNC](0.0 if mix else smoothing),  # mix smooths the labels it mixes
        accumulation=max(1, cfg.GLOBAL_BATCH_SIZE // cfg.TRAIN.BATCH_SIZE),
        clip_grad_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
        max_skipped=cfg.SOLVER.MAX_SKIPPED_STEPS,
        amp_dtype=amp_dtype,
        scaler=torch.amp.GradScaler("cuda") if amp_dtype == torch.float16 else None,
        mix=mix,
        ema=ema,
    )


def _lr_of_stage(policy: Callable[[float], float], stages: Sequence[MultigridStage], epoch: float) -> float:
    """The learning rate, larger where batches are."""
    return policy(epoch) * stages[stage_at(stages, epoch)].batch_factor


def lr_scale(cfg: CfgNode) -> float:
    """What the config's learning rates are to be multiplied by for its batch (linear scaling, arXiv 1706.02677)."""
    meant, actual = cfg.SOLVER.BASE_LR_BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE or cfg.TRAIN.BATCH_SIZE
    if not meant:
        return 1.0
    if processes.is_main():
        logger.info(
            "learning rates are for %d videos a step, and are multiplied by %g for %d: SOLVER.BASE_LR comes to %g",
            meant,
            actual / meant,
            actual,
            cfg.SOLVER.BASE_LR * actual / meant,
        )
    return actual / meant


# MODEL.LOSS_FUNC -> the part of a recipe that follows from it, given the label smoothing
_LOSSES = {
    "cross_entropy": lambda smoothing: {"criterion": nn.CrossEntropyLoss(label_smoothing=smoothing)},
    "bce_logit": lambda smoothing: {"criterion": nn.BCEWithLogitsLoss(), "judge": None},
}


def _resume_from(
    cfg: CfgNode, checkpoints: Path, model: nn.Module, optimizer: torch.optim.Optimizer, **state
) -> Position:
    """Load the newest checkpoint of this run, if there is one; returns where to go on."""
    if not cfg.TRAIN.AUTO_RESUME:
        if find_checkpoints(checkpoints):
            raise ConfigError(
                f"{checkpoints} holds checkpoints of another run, which this one would mix with its own: "
                "set another OUTPUT_DIR, or TRAIN.AUTO_RESUME True to go on from them"
            )
        return Position()
    if processes.is_main():
        remove_partial(checkpoints)  # what a run that was killed was writing
    found = latest_checkpoint(checkpoints)
    if len(set(processes.all_gather(found and found[0].name))) > 1:
        raise CheckpointError(f"not every process sees the same checkpoints in {checkpoints}; is the folder shared?")
    if found is None:
        return Position()
    path, checkpoint = found
    resume(checkpoint, path, model, optimizer, **state)
    position = Position(checkpoint["epoch"], checkpoint["step"], checkpoint["states"])
    more = f" and {position.step} steps" if position.step else ""
    logger.info("going on from %s; %d of %d epochs%s are done", path, position.epoch, cfg.SOLVER.MAX_EPOCH, more)
    if changed := differences(checkpoint["config"], cfg):
        logger.warning("settings changed since that checkpoint: %s", "; ".join(changed))
    return position
