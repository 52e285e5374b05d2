"""From the words of a command line to a finished run: config, processes, stages, one line for every error of a user.

``videofib run``, ``train`` and ``test`` call ``main``, with the words that ``run.command_line`` parses.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NoReturn

import torch
from fvcore.common.config import CfgNode

from videofib.checkpoint.file import CheckpointError
from videofib.config import ConfigError, idle_in, known_keys, load_config, overridden_keys, value_of
from videofib.data.lists.manifest import ManifestError
from videofib.distributed import processes
from videofib.distributed.launch import delay_unless_main, launch, limit_threads
from videofib.engine.evaluate import EvaluationError
from videofib.engine.interrupt import InterruptedRun, StopRequest, stop_noticed
from videofib.engine.train import TrainingError
from videofib.files import replacing
from videofib.run.preflight import Faults, check_run
from videofib.run.pretraining import check_pretraining, pretrain_from_config
from videofib.run.reporting import report_from_config
from videofib.run.testing import evaluate_run
from videofib.run.training import train_from_config
from videofib.signals import interrupted
from videofib.starting import StartError, end_if_unguarded
from videofib.tracking import sinks
from videofib.tracking.environment import write_record
from videofib.tracking.log import close_logging, setup_logging
from videofib.tracking.sinks import SinkError

logger = logging.getLogger(__name__)

_SWITCHES = ("TRAIN.ENABLE", "TEST.ENABLE")
# Errors that a user can fix: reported in one line, without a traceback.
USER_ERRORS = (ConfigError, ManifestError, CheckpointError, TrainingError, EvaluationError, SinkError, StartError)


def main(stages: Sequence[str] | None, file: str | None, overrides: Sequence[str], *, prog: str | None = None) -> None:
    """Run stages (``train``, ``test``; ``pretrain``) in as many processes as the config or torchrun says.

    Args:
        stages: by default those that TRAIN.ENABLE and TEST.ENABLE turn on; ``pretrain`` is a stage of its own.
        file, overrides: the config's name or file, and KEY VALUE pairs that change it.
        prog: the command's name, for its messages.

    Raises:
        SystemExit: 2 after one of USER_ERRORS, reported in one line on stderr; 130 after Ctrl-C, 143 after SIGTERM.
    """
    end_if_unguarded()
    setup_logging()
    notes: list[str] = []
    try:
        cfg = load_config(file, overrides, notes=notes)
        keys = overridden_keys(overrides)
        if stages and (switches := [key for key in keys if key in _SWITCHES]):
            notes.append(f"no effect here: {', '.join(switches)}, which only videofib run reads")
        stages = stages or [name for name, on in (("train", cfg.TRAIN.ENABLE), ("test", cfg.TEST.ENABLE)) if on]
        if not stages:
            raise ConfigError("TRAIN.ENABLE and TEST.ENABLE are both False, so there is nothing to do; set one to True")
        if torch.cuda.is_available() and torch.cuda.device_count() < cfg.NUM_GPUS:
            raise ConfigError(f"NUM_GPUS is {cfg.NUM_GPUS}, but this machine has {torch.cuda.device_count()} GPU(s)")
        for other, idle in idle_in(stages, keys).items():
            notes.append(f"no effect here: {', '.join(idle)}, since this run does not {other}")
    except USER_ERRORS as error:
        _fail(error)
    try:
        launch(
            run,
            (cfg, stages, notes),
            processes=cfg.NUM_GPUS,
            nodes=cfg.NUM_SHARDS,
            node=cfg.SHARD_ID,
            init_method=cfg.INIT_METHOD,
        )
    except KeyboardInterrupt:
        raise SystemExit(interrupted(prog)) from None
    except StartError as error:
        _fail(error)


def run(cfg: CfgNode, stages: Sequence[str], notes: Sequence[str] = ()) -> None:
    """Run the stages in this process, which is one of the run's; ``notes`` are logged first."""
    limit_threads(cfg.DATA_LOADER.NUM_WORKERS)
    try:
        with stop_noticed(announce=processes.is_main()) as stop:
            _open_log(cfg)
            for note in notes if processes.is_main() else ():
                logger.warning("%s", note)
            if "pretrain" in stages:
                check_pretraining(cfg)
            else:
                check_run(cfg, stages)
            _run_stages(cfg, stages, stop)
            close_logging()  # sends what trackers still hold
    except InterruptedRun as reason:
        if processes.is_main():
            logger.warning("%s", reason)
        raise SystemExit(stop.exit_code) from None
    except USER_ERRORS as error:
        _fail(error)  # where signals end a process again, so that one error ends all without being repeated


def _run_stages(cfg: CfgNode, stages: Sequence[str], stop: StopRequest) -> None:
    trained = False

    def accepted(prefix: str = "") -> None:
        if not trained:  # else training has written the records already
            _record(cfg, prefix)
        stop.has_something_to_save()

    if "pretrain" in stages or "train" in stages:
        train_stage = pretrain_from_config if "pretrain" in stages else train_from_config
        trained = train_stage(cfg, stop, accepted)
        processes.barrier()  # until the last checkpoint is written
        if trained:
            report_from_config(cfg, tested=False)
    if "test" in stages:
        evaluate_run(cfg, partial(accepted, "test_"), stop)
        report_from_config(cfg, tested=True)


def _open_log(cfg: CfgNode) -> None:
    try:
        setup_logging(cfg.OUTPUT_DIR, processes.rank())
    except OSError as error:
        raise _cannot_write(cfg, error) from error


def _record(cfg: CfgNode, prefix: str = "") -> None:
    """Write the config and the environment, and connect the trackers, in rank 0.

    A stage calls this once it is certain that it has something to do: a start that is refused leaves the records of the
    run as they are, and a test does not overwrite those of training.
    """
    if not processes.is_main():
        return
    attach_sinks(cfg)
    try:
        with replacing(Path(cfg.OUTPUT_DIR) / f"{prefix}config.yaml") as file:
            file.write_text(cfg.dump(), encoding="utf-8")
        write_record(cfg.OUTPUT_DIR, prefix=prefix, processes=processes.world_size())
    except OSError as error:
        raise _cannot_write(cfg, error) from error


def _cannot_write(cfg: CfgNode, error: OSError) -> ConfigError:
    return ConfigError(f"cannot write to OUTPUT_DIR {cfg.OUTPUT_DIR}: {error}")


def attach_sinks(cfg: CfgNode) -> None:
    """Connect the trackers that TENSORBOARD, WANDB and MLFLOW turn on; called in rank 0 only.

    Raises:
        SinkError: a tracker is not installed, or cannot be started.
    """
    folder = Path(cfg.OUTPUT_DIR)
    settings = {key: value_of(cfg, key) for key in known_keys()}
    if cfg.TENSORBOARD.ENABLE:
        sinks.attach(sinks.tensorboard(folder / "tensorboard"))
    if cfg.WANDB.ENABLE:
        sinks.attach(sinks.wandb(folder, cfg.WANDB.PROJECT, settings))
    if cfg.MLFLOW.ENABLE:
        uri = cfg.MLFLOW.TRACKING_URI or (folder / "mlruns").resolve().as_uri()
        sinks.attach(sinks.mlflow(uri, cfg.MLFLOW.EXPERIMENT, folder.resolve().name, settings))


def _fail(error: Exception) -> NoReturn:
    delay_unless_main()
    for fault in error.faults if isinstance(error, Faults) else [error]:
        first, *more = str(fault).split("\n")
        logger.error("error: %s" + "\n  %s" * len(more), first, *more)
    raise SystemExit(2)


if __name__ == "__main__":  # processes that it starts would import this module a second time
    raise SystemExit("error: this module is not a command; run: python -m videofib run --cfg FILE [KEY VALUE ...]")
