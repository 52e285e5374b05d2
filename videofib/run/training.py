"""The training stage: from the config to the parts of a training run, and the position it starts from."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import cast

import torch
from fvcore.common.config import CfgNode
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from videofib.checkpoint.file import ModelDescription, Position, TrainingState
from videofib.checkpoint.lock import run_lock
from videofib.checkpoint.manager import CheckpointManager, find_checkpoints
from videofib.config import ConfigError, differences
from videofib.data.lists.records import Records
from videofib.data.loading.multigrid import MultigridStage, stage_at
from videofib.distributed import processes
from videofib.distributed.fsdp import shard, unsharded_copy
from videofib.distributed.mesh import data_rank, data_size, make_mesh
from videofib.engine.distill import Distillation
from videofib.engine.freezing import freeze, freeze_all_but
from videofib.engine.losses import BinaryCrossEntropy, CrossEntropy
from videofib.engine.objective import Objective, Supervised
from videofib.engine.optim import build_optimizer, lr_at, parameter_groups, warmup_end
from videofib.engine.randomness import seed_everything
from videofib.engine.schedule import Schedule
from videofib.engine.shared_batches import BatchLoader, shared
from videofib.engine.step import Recipe, is_top1
from videofib.engine.train import has_work, train
from videofib.models import TimeSformer
from videofib.models.pretrained.load import classifier_names
from videofib.models.pretrained.weight_files import read_weights
from videofib.models.recovery import PREFIX as RECOVERY
from videofib.report.markup.numbers import amount
from videofib.run.class_names import trained_class_names, warn_of_absent_classes
from videofib.run.class_weights import class_weights
from videofib.run.loaders import (
    build_eval_loader,
    build_train_loader,
    describe_input,
    multigrid_stages,
    validates,
    view_dataset,
)
from videofib.run.parts import evaluate_from_config, load_into_model, model_from_config, teacher_from_config
from videofib.run.preflight import (
    check_compiler,
    check_sharded_checkpoints,
    choose_amp_dtype,
    warn_of_flips,
)
from videofib.run.recalibrating import add_recovery, recalibration

logger = logging.getLogger(__name__)

# MODEL.LOSS_FUNC -> the loss, given label smoothing and weights of classes
_LOSSES: dict[str, Callable[[float, Tensor | None], CrossEntropy | BinaryCrossEntropy]] = {
    "cross_entropy": CrossEntropy,
    "bce_logit": lambda smoothing, weights: BinaryCrossEntropy(weights),
}


def train_from_config(cfg: CfgNode, stop: Callable[[], bool], accepted: Callable[[], None] = lambda: None) -> bool:
    """Train the model that the config describes, resuming from its newest checkpoint where there is one.

    ``accepted`` is called in all processes once all checks have passed and there is something to do. Returns whether
    there was.
    """
    device, mesh = processes.device(), make_mesh(cfg.TRAIN.CONTEXT_PARALLEL)
    amp_dtype = choose_amp_dtype(cfg, device)
    check_compiler(cfg, device)
    check_sharded_checkpoints(cfg)
    part = (data_rank(mesh), data_size(mesh))
    class_names = trained_class_names(cfg)
    with ExitStack() as stack:
        stack.enter_context(run_lock(cfg.OUTPUT_DIR))
        train_loader = stack.enter_context(shared(build_train_loader(cfg, *part), mesh))
        val_loader = None
        if validates(cfg):
            val_loader = shared(build_eval_loader(cfg, "val", *part, class_names=class_names), mesh)
            stack.enter_context(val_loader)
        warn_of_flips(cfg, class_names)
        splits = [loader.dataset.records for loader in (train_loader, val_loader) if loader]
        warn_of_absent_classes(cfg, class_names, splits)

        model, ema = _build_model(cfg, mesh, amp_dtype, class_names)
        optimizer = _build_optimizer(cfg, model)
        weights = class_weights(cfg, train_loader.dataset.records, class_names)
        criterion = criterion_from_config(cfg, weights).to(device)
        recipe = recipe_from_config(cfg, _objective(cfg, model, criterion, device, class_names), amp_dtype, ema)
        _log_sizes(cfg, model, train_loader, val_loader)

        state = TrainingState(model, optimizer, recipe.scaler, ema.module if ema else None, (RECOVERY,))
        views = view_dataset(cfg, Records.unlabelled([]), 1, 1)
        description = ModelDescription(cfg.dump(), class_names, describe_input(views))
        checkpoints = _checkpoint_manager(cfg, state, description, validated=val_loader is not None)
        start = _resume(cfg, checkpoints)
        schedule = _schedule(cfg, validated=val_loader is not None)
        if not has_work(train_loader, schedule, checkpoints, start):
            early = start.epoch < schedule.epochs
            done = "training ended early (TRAIN.PATIENCE), %d" if early else "all %d"
            logger.info(f"{done} epochs are done, so there is nothing to train", start.epoch)
            return False
        accepted()

        loss = _LOSSES[cfg.MODEL.LOSS_FUNC](0.0, weights)

        def validate() -> dict:
            evaluated = unsharded_copy(ema.module if ema else model, lambda: model_from_config(cfg, mesh))
            assert val_loader is not None  # else the schedule has no validation
            with val_loader:  # its workers end with the validation, and do not wait for the next one
                figures, _ = evaluate_from_config(
                    cfg, evaluated, val_loader, class_names, amp_dtype, "validate", loss=loss, mesh=mesh, stop=stop
                )
            return figures

        if cfg.TRAIN.COMPILE:
            # in place: weights keep their names, and the copy that ema holds is not compiled; each size of clips is
            # compiled separately, since torch 2.14 fails on dynamic sizes
            model.compile(dynamic=False)
        train(
            model,
            train_loader,
            optimizer,
            recipe,
            schedule,
            checkpoints=checkpoints,
            validate=validate,
            start=start,
            stop=stop,
            mesh=mesh,
        )
    return True


def _checkpoint_manager(
    cfg: CfgNode, state: TrainingState, description: ModelDescription, *, validated: bool
) -> CheckpointManager:
    return CheckpointManager(
        Path(cfg.OUTPUT_DIR) / "checkpoints",
        state,
        description,
        metric=_best_metric(cfg) if validated else None,
        keep=cfg.CHECKPOINT.KEEP,
        sharded=cfg.TRAIN.SHARDED_CHECKPOINTS,
    )


def _build_model(
    cfg: CfgNode, mesh: DeviceMesh | None, amp_dtype: torch.dtype | None, class_names: Sequence[str] | None
) -> tuple[nn.Module, ModelEmaV3 | None]:
    """The model with its first weights, frozen and sharded as the config says, and their moving average."""
    seed_everything(cfg.RNG_SEED)  # the same first weights in every process
    model = model_from_config(cfg, mesh).to(processes.device())
    if source := cfg.TRAIN.CHECKPOINT_FILE_PATH:
        load_into_model(cfg, model, read_weights(source, cfg.TRAIN.CHECKPOINT_PART), class_names)
    if cfg.SLIMMING.TEACHER:
        add_recovery(cfg, cast(TimeSformer, model))
    try:
        freeze(model, cfg.TRAIN.FREEZE)
    except ValueError as error:
        raise ConfigError(f"TRAIN.FREEZE: {error}") from error
    if cfg.TRAIN.LINEAR_PROBE:
        freeze_all_but(model, classifier_names(model))
    ema = ModelEmaV3(model, decay=cfg.TRAIN.EMA_DECAY) if cfg.TRAIN.EMA_DECAY else None
    if cfg.TRAIN.STRATEGY == "fsdp":
        for unsharded in [model, *([ema.module] if ema else [])]:
            shard(unsharded, amp_dtype if isinstance(model, TimeSformer) else None)
    return model, ema


def _build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.Optimizer:
    try:
        groups = parameter_groups(
            model,
            cfg.SOLVER.WEIGHT_DECAY,
            decay_all=not cfg.SOLVER.ZERO_WD_1D_PARAM,
            layer_decay=cfg.SOLVER.LAYER_DECAY,
        )
    except ValueError as error:
        raise ConfigError(f"SOLVER.LAYER_DECAY: {error}; set it to 1.0") from error
    return build_optimizer(
        groups,
        cfg.SOLVER.OPTIMIZING_METHOD,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        betas=cfg.SOLVER.BETAS,
    )


def _objective(
    cfg: CfgNode, model: nn.Module, criterion: nn.Module, device: torch.device, class_names: Sequence[str] | None
) -> Objective:
    if cfg.SLIMMING.TEACHER:
        return recalibration(cfg, cast(TimeSformer, model), criterion, device, class_names)
    return Supervised(criterion, _distillation(cfg, device, class_names))


def _distillation(cfg: CfgNode, device: torch.device, class_names: Sequence[str] | None) -> Distillation | None:
    teacher = teacher_from_config(cfg, class_names)
    return Distillation(teacher.to(device), cfg.DISTILL.ALPHA, cfg.DISTILL.TEMPERATURE) if teacher else None


def _log_sizes(cfg: CfgNode, model: nn.Module, train_loader: BatchLoader, val_loader: BatchLoader | None) -> None:
    logger.info(
        "%s with %s parameters, of which %s are trained; %d train and %d val videos; %d process(es) on %s",
        cfg.MODEL.MODEL_NAME,
        amount(sum(parameter.numel() for parameter in model.parameters())),
        amount(sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)),
        len(train_loader.dataset.records),
        len(val_loader.dataset.records) if val_loader else 0,
        processes.world_size(),
        processes.device().type,
    )
    repeated, videos = train_loader.dataset.records.repeats()
    if repeated:
        logger.info(
            "the train list has %d rows that are repeated, of %d videos: an epoch takes each as often as it is listed",
            repeated,
            videos,
        )
    if val_loader is None and processes.is_main():
        why = f"{cfg.DATA.PATH_TO_DATA_DIR} has no val split" if cfg.TRAIN.EVAL_PERIOD else "TRAIN.EVAL_PERIOD is 0"
        logger.warning("no validation, since %s: no figures of it, and no best checkpoint, only the newest", why)


def _best_metric(cfg: CfgNode) -> str | None:
    """The figure of validation by which the best checkpoint is chosen; None: there is no best."""
    auto = {"cross_entropy": "top1_acc", "bce_logit": "mAP"}[cfg.MODEL.LOSS_FUNC]
    return {"auto": auto, "none": None}.get(cfg.CHECKPOINT.METRIC, cfg.CHECKPOINT.METRIC)


def _resume(cfg: CfgNode, checkpoints: CheckpointManager) -> Position:
    """Load the newest checkpoint of this run, if there is one; returns the position to start from."""
    if not cfg.TRAIN.AUTO_RESUME:
        if find_checkpoints(checkpoints.directory):
            raise ConfigError(
                f"{checkpoints.directory} holds checkpoints of another run, which this one would mix with its own: "
                "set another OUTPUT_DIR, or TRAIN.AUTO_RESUME True to resume from them"
            )
        return Position()
    resumed = checkpoints.resume()
    if resumed is None:
        return Position()
    position = resumed.position
    more = f" and {position.step} steps" if position.step else ""
    logger.info(
        "resuming from %s; %d of %d epochs%s are done", resumed.path, position.epoch, cfg.SOLVER.MAX_EPOCH, more
    )
    if changed := differences(resumed.config, cfg):
        logger.warning("settings changed since that checkpoint: %s", "; ".join(changed))
    return position


def _schedule(cfg: CfgNode, *, validated: bool) -> Schedule:
    return Schedule(
        epochs=cfg.SOLVER.MAX_EPOCH,
        seed=cfg.RNG_SEED,
        log_period=cfg.LOG_PERIOD,
        eval_period=cfg.TRAIN.EVAL_PERIOD if validated else 0,
        checkpoint_period=cfg.TRAIN.CHECKPOINT_PERIOD,
        checkpoint_steps=cfg.TRAIN.CHECKPOINT_STEPS,
        patience=cfg.TRAIN.PATIENCE if validated else 0,
    )


def criterion_from_config(cfg: CfgNode, weights: Tensor | None = None) -> CrossEntropy | BinaryCrossEntropy:
    """The loss of labels, given weights of classes."""
    smoothing = 0.0 if cfg.MIXUP.ENABLE else cfg.MIXUP.LABEL_SMOOTH_VALUE  # mix smooths the labels it mixes
    return _LOSSES[cfg.MODEL.LOSS_FUNC](smoothing, weights)


def recipe_from_config(
    cfg: CfgNode, objective: Objective, amp_dtype: torch.dtype | None = None, ema: ModelEmaV3 | None = None
) -> Recipe:
    """How the config's SOLVER, MIXUP and batch sizes make an optimizer step."""
    mix = None
    if cfg.MIXUP.ENABLE:
        mix = Mixup(
            mixup_alpha=cfg.MIXUP.ALPHA,
            cutmix_alpha=cfg.MIXUP.CUTMIX_ALPHA,
            prob=cfg.MIXUP.PROB,
            switch_prob=cfg.MIXUP.SWITCH_PROB,
            label_smoothing=cfg.MIXUP.LABEL_SMOOTH_VALUE,
            num_classes=cfg.MODEL.NUM_CLASSES,
        )
    policy = lr_policy(cfg)
    return Recipe(
        lr_at=partial(_lr_of_stage, policy, multigrid_stages(cfg)) if cfg.MULTIGRID.LONG_CYCLE else policy,
        objective=objective,
        judge=is_top1 if cfg.MODEL.LOSS_FUNC == "cross_entropy" else None,  # clips of one class each
        accumulation=max(1, cfg.GLOBAL_BATCH_SIZE // cfg.TRAIN.BATCH_SIZE),
        clip_grad_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
        max_skipped=cfg.SOLVER.MAX_SKIPPED_STEPS,
        amp_dtype=amp_dtype,
        scaler=torch.amp.GradScaler("cuda") if amp_dtype == torch.float16 else None,
        mix=mix,
        ema=ema,
    )


def lr_policy(cfg: CfgNode) -> Callable[[float], float]:
    """The learning rate at a fractional epoch, as SOLVER says; a warm-up that is shortened is logged."""
    scale, solver = lr_scale(cfg), cfg.SOLVER
    warmup = warmup_end(solver.WARMUP_EPOCHS, policy=solver.LR_POLICY, max_epoch=solver.MAX_EPOCH, steps=solver.STEPS)
    if warmup < solver.WARMUP_EPOCHS and processes.is_main():
        logger.warning(
            "SOLVER.WARMUP_EPOCHS %g is shortened to %g: warm-up takes at most half of SOLVER.MAX_EPOCH %d, and ends "
            "before a step down of the learning rate",
            *(solver.WARMUP_EPOCHS, warmup, solver.MAX_EPOCH),
        )
    return partial(
        lr_at,
        base_lr=scale * solver.BASE_LR,
        policy=solver.LR_POLICY,
        max_epoch=solver.MAX_EPOCH,
        end_lr=scale * solver.COSINE_END_LR,
        steps=solver.STEPS,
        relative_lrs=solver.LRS,
        warmup_epochs=warmup,
        warmup_start_lr=scale * solver.WARMUP_START_LR,
    )


def _lr_of_stage(policy: Callable[[float], float], stages: Sequence[MultigridStage], epoch: float) -> float:
    """The learning rate, larger by as much as the batches of the stage are."""
    return policy(epoch) * stages[stage_at(stages, epoch)].batch_factor


def lr_scale(cfg: CfgNode) -> float:
    """The factor on the config's learning rates for its batch size (linear scaling, arXiv 1706.02677)."""
    meant, actual = cfg.SOLVER.BASE_LR_BATCH_SIZE, cfg.GLOBAL_BATCH_SIZE or cfg.TRAIN.BATCH_SIZE
    if not meant:
        return 1.0
    if processes.is_main():
        logger.info(
            "learning rates are given for %d videos a step and multiplied by %g for %d: SOLVER.BASE_LR comes to %g",
            meant,
            actual / meant,
            actual,
            cfg.SOLVER.BASE_LR * actual / meant,
        )
    return actual / meant
