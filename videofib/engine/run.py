"""From the command line to a finished run: reads the config, builds the parts, and tells train and evaluate.

The tools are this module's front doors. Nothing else in the engine knows the config.
"""

from __future__ import annotations

import argparse
import logging
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from fvcore.common.config import CfgNode
from timm.data import Mixup
from timm.utils import ModelEmaV3
from torch import nn

from videofib import distributed
from videofib.checkpoint import (
    CheckpointError,
    find_checkpoints,
    latest_checkpoint,
    resume,
    save_checkpoint,
)
from videofib.config import ConfigError, differences, load_config
from videofib.data.loader import build_eval_loader, build_train_loader
from videofib.data.manifest import ManifestError
from videofib.engine.evaluate import EvaluationError, evaluate, write_results
from videofib.engine.interrupt import InterruptedRun, sigterm_noticed
from videofib.engine.preflight import check_split, choose_amp_dtype, read_class_names, warn_of_flips
from videofib.engine.randomness import seed_everything
from videofib.engine.tasks import MULTI_LABEL, SINGLE_LABEL
from videofib.engine.train import Position, Recipe, TrainingError, train
from videofib.files import replacing
from videofib.logging import log_stats, setup_logging
from videofib.models.build import build_model
from videofib.models.source import Source, read_source
from videofib.models.weights import LoadReport, load_pretrained
from videofib.optim import build_optimizer, lr_at, parameter_groups

logger = logging.getLogger(__name__)

# What a user can mend: told in one line, without a traceback.
USER_ERRORS = (ConfigError, ManifestError, CheckpointError, TrainingError, EvaluationError)


def main(stages: Sequence[str] | None = None, argv: Sequence[str] | None = None) -> None:
    """Run stages (``train``, ``test``) in as many processes as the config or torchrun says.

    Args:
        stages: by default those that TRAIN.ENABLE and TEST.ENABLE ask for.
        argv: the command line without the program's name.

    Raises:
        SystemExit: 2 after an error the user can mend, which has been told in one line on stderr.
    """
    setup_logging()
    try:
        cfg = config_from_command_line(argv)
        stages = stages or [name for name, enabled in _enabled(cfg) if enabled]
        if not stages:
            raise ConfigError("TRAIN.ENABLE and TEST.ENABLE are both False: there is nothing to do")
        if torch.cuda.is_available() and torch.cuda.device_count() < cfg.NUM_GPUS:
            raise ConfigError(f"NUM_GPUS is {cfg.NUM_GPUS}, but this machine has {torch.cuda.device_count()} GPU(s)")
    except USER_ERRORS as error:
        _fail(error)
    distributed.launch(
        run,
        (cfg, stages),
        processes=cfg.NUM_GPUS,
        machines=cfg.NUM_SHARDS,
        machine=cfg.SHARD_ID,
        init_method=cfg.INIT_METHOD,
    )


def config_from_command_line(argv: Sequence[str] | None) -> CfgNode:
    """``--cfg FILE KEY VALUE ...`` as PySlowFast's and TimeSformer's users write it."""
    parser = argparse.ArgumentParser(description="Options come first, then KEY VALUE pairs that change the config.")
    parser.add_argument("--cfg", required=True, metavar="FILE", help="the experiment's YAML file")
    parser.add_argument("--shard_id", metavar="N", help="SHARD_ID: which machine this is")
    parser.add_argument("--num_shards", metavar="N", help="NUM_SHARDS: how many machines there are")
    parser.add_argument("--init_method", metavar="URL", help="INIT_METHOD: where several machines meet")
    parser.add_argument("--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="same as without it")
    parser.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="for example SOLVER.BASE_LR 0.1")
    args = parser.parse_args(argv)
    overrides = [*args.pairs, *args.opts]
    for key in ("SHARD_ID", "NUM_SHARDS", "INIT_METHOD"):
        if (value := getattr(args, key.lower())) is not None:
            overrides += [key, value]
    if started := distributed.torchrun_processes():
        overrides += ["NUM_GPUS", str(started[0]), "NUM_SHARDS", str(started[1])]
    return load_config(args.cfg, overrides)


def run(cfg: CfgNode, stages: Sequence[str]) -> None:
    """Run the stages in this process, one of those that work together."""
    distributed.leave_cores_to(cfg.DATA_LOADER.NUM_WORKERS)
    try:
        _open_output_dir(cfg, stages)
        if "train" in stages:
            with sigterm_noticed() as stop:
                train_from_config(cfg, stop)
            distributed.barrier()  # the last checkpoint is there for everyone
        if "test" in stages:
            test_from_config(cfg)
    except InterruptedRun as reason:
        logger.warning("%s; it is saved, and the same command goes on", reason)
        raise SystemExit(128 + signal.SIGTERM) from None
    except USER_ERRORS as error:
        _fail(error)


def train_from_config(cfg: CfgNode, stop: Callable[[], bool]) -> None:
    """Train the model the config describes, going on from its newest checkpoint where there is one."""
    device, rank, world = distributed.device(), distributed.rank(), distributed.world_size()
    amp_dtype = choose_amp_dtype(cfg, device)
    train_loader = build_train_loader(cfg, rank, world)
    val_loader = build_eval_loader(cfg, "val", rank, world)
    class_names = read_class_names(cfg)
    check_split(cfg, train_loader, "train")
    check_split(cfg, val_loader, "val")
    warn_of_flips(cfg, class_names)

    seed_everything(cfg.RNG_SEED)  # the same first weights in every process
    model = _build_model(cfg).to(device)
    if source := cfg.TRAIN.CHECKPOINT_FILE_PATH:
        _load_pretrained(cfg, model, read_source(source))
    ema = ModelEmaV3(model, decay=cfg.TRAIN.EMA_DECAY) if cfg.TRAIN.EMA_DECAY else None
    optimizer = build_optimizer(
        _parameter_groups(cfg, model),
        cfg.SOLVER.OPTIMIZING_METHOD,
        lr=cfg.SOLVER.BASE_LR,
        momentum=cfg.SOLVER.MOMENTUM,
        nesterov=cfg.SOLVER.NESTEROV,
        betas=cfg.SOLVER.BETAS,
    )
    recipe = recipe_from_config(cfg, amp_dtype, ema)
    logger.info(
        "%s with %.2f M parameters; %d train and %d val videos; %d process(es) on %s",
        cfg.MODEL.MODEL_NAME,
        sum(parameter.numel() for parameter in model.parameters()) / 1e6,
        len(train_loader.dataset.records),
        len(val_loader.dataset.records),
        world,
        device.type,
    )

    state = {"scaler": recipe.scaler, "ema": ema.module if ema else None}
    checkpoints = Path(cfg.OUTPUT_DIR) / "checkpoints"
    start = _resume_from(cfg, checkpoints, model, optimizer, **state)
    evaluated = partial(_evaluate, cfg, ema.module if ema else model, val_loader, class_names, amp_dtype, "validate")
    train(
        model,
        train_loader,
        optimizer,
        recipe,
        epochs=cfg.SOLVER.MAX_EPOCH,
        start=start,
        seed=cfg.RNG_SEED,
        log_period=cfg.LOG_PERIOD,
        save=lambda position: save_checkpoint(
            checkpoints, model=model, optimizer=optimizer, config=cfg.dump(), **vars(position), **state
        ),
        checkpoint_period=cfg.TRAIN.CHECKPOINT_PERIOD,
        checkpoint_steps=cfg.TRAIN.CHECKPOINT_STEPS,
        validate=lambda: evaluated()[0],
        eval_period=cfg.TRAIN.EVAL_PERIOD,
        stop=stop,
    )


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


def test_from_config(cfg: CfgNode) -> dict:
    """Multi-view accuracy of a checkpoint on the test split, written to OUTPUT_DIR; returns the figures."""
    checkpoints = Path(cfg.OUTPUT_DIR) / "checkpoints"
    if cfg.TEST.CHECKPOINT_FILE_PATH:
        source = read_source(cfg.TEST.CHECKPOINT_FILE_PATH)
    elif found := latest_checkpoint(checkpoints):
        source = replace(read_source(found[1]), name=str(found[0]))
    else:
        raise CheckpointError(f"no checkpoint in {checkpoints}; train first, or set TEST.CHECKPOINT_FILE_PATH")
    loader = build_eval_loader(cfg, "test", distributed.rank(), distributed.world_size())
    class_names = read_class_names(cfg)
    check_split(cfg, loader, "test")
    model = _build_model(cfg)
    report = _load_pretrained(cfg, model, source)
    if report.untrained:
        raise CheckpointError(f"{source.name} lacks what this model needs to be tested: {', '.join(report.untrained)}")
    logger.info("testing %s (epoch %s) on %d videos", source.name, source.epoch, len(loader.dataset.records))

    results, scores = _evaluate(cfg, model.to(distributed.device()), loader, class_names, None, "test")
    results = {**results, "checkpoint": source.name, "epoch": source.epoch}
    if distributed.is_main():
        write_results(cfg.OUTPUT_DIR, results, scores)
        log_stats({"_type": "test_final", **results})
        logger.info("results are in %s", Path(cfg.OUTPUT_DIR) / "test_results.json")
    return results


def _load_pretrained(cfg: CfgNode, model: nn.Module, source: Source) -> LoadReport:
    """Bring weights into the model, and log what became of them."""
    report = load_pretrained(
        model,
        source,
        position_resize=cfg.TIMESFORMER.POSITION_RESIZE,
        time_resize=cfg.TIMESFORMER.TIME_RESIZE,
        verbose=False,
    )
    logger.info("%s", report)
    if source.settings and (changed := differences(source.settings, cfg, _MODEL_SECTIONS)):
        logger.warning("%s was trained with other settings: %s", source.name, "; ".join(changed))
    return report


def _evaluate(cfg: CfgNode, model: nn.Module, loader, class_names, amp_dtype: torch.dtype | None, title: str):
    figures, scores = evaluate(
        model,
        loader,
        view_batch_size=max(1, cfg.TEST.BATCH_SIZE // distributed.world_size()),
        ensemble=cfg.DATA.ENSEMBLE_METHOD,
        ensemble_logits=cfg.TEST.ENSEMBLE_LOGITS,
        unreadable=cfg.TEST.UNREADABLE,
        task={"cross_entropy": SINGLE_LABEL, "bce_logit": MULTI_LABEL}[cfg.MODEL.LOSS_FUNC],
        class_names=class_names,
        amp_dtype=amp_dtype,
        title=title,
    )
    if figures["skipped"] and distributed.is_main():
        what = "left out" if cfg.TEST.UNREADABLE == "exclude" else "counted as wrong"
        names = "; ".join(f"{entry['video']} ({entry['reason']})" for entry in figures["skipped"])
        logger.warning("%s: %d unreadable videos were %s: %s", title, len(figures["skipped"]), what, names)
    return figures, scores


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
    return Recipe(
        lr_at=partial(
            lr_at,
            base_lr=cfg.SOLVER.BASE_LR,
            policy=cfg.SOLVER.LR_POLICY,
            max_epoch=cfg.SOLVER.MAX_EPOCH,
            end_lr=cfg.SOLVER.COSINE_END_LR,
            steps=cfg.SOLVER.STEPS,
            relative_lrs=cfg.SOLVER.LRS,
            warmup_epochs=cfg.SOLVER.WARMUP_EPOCHS,
            warmup_start_lr=cfg.SOLVER.WARMUP_START_LR,
        ),
        **_LOSSES[cfg.MODEL.LOSS_FUNC](0.0 if mix else smoothing),  # mix smooths the labels it mixes
        accumulation=max(1, cfg.GLOBAL_BATCH_SIZE // cfg.TRAIN.BATCH_SIZE),
        clip_grad_norm=cfg.SOLVER.CLIP_GRAD_L2NORM,
        max_skipped=cfg.SOLVER.MAX_SKIPPED_STEPS,
        amp_dtype=amp_dtype,
        scaler=torch.amp.GradScaler("cuda") if amp_dtype == torch.float16 else None,
        mix=mix,
        ema=ema,
    )


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
    found = latest_checkpoint(checkpoints)
    if len(set(distributed.all_gather(found and found[0].name))) > 1:
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


_MODEL_SECTIONS = ("MODEL", "SLOWFAST", "TIMESFORMER", "ATTENTION", "FIBOTTENTION", "DATA")


def _enabled(cfg: CfgNode) -> list[tuple[str, bool]]:
    return [("train", cfg.TRAIN.ENABLE), ("test", cfg.TEST.ENABLE)]


def _build_model(cfg: CfgNode) -> nn.Module:
    try:
        return build_model(cfg)
    except ValueError as error:
        raise ConfigError(f"the config describes no model: {error}") from error


def _open_output_dir(cfg: CfgNode, stages: Sequence[str]) -> None:
    """Start the log, and write down the config: a test on its own leaves the record of how the model was trained."""
    record = Path(cfg.OUTPUT_DIR) / ("config.yaml" if "train" in stages else "test_config.yaml")
    try:
        setup_logging(cfg.OUTPUT_DIR, distributed.rank())
        if distributed.is_main():
            with replacing(record) as file:
                file.write_text(cfg.dump(), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to OUTPUT_DIR {cfg.OUTPUT_DIR}: {error}") from error


def _fail(error: Exception) -> None:
    distributed.let_main_speak_first()
    logger.error("error: %s", error)
    raise SystemExit(2)
