"""Where the config sends a run's figures beside its log."""

from __future__ import annotations

from pathlib import Path

from fvcore.common.config import CfgNode

from videofib.config import known_keys, value_of
from videofib.tracking import sinks


def attach_sinks(cfg: CfgNode) -> None:
    """Begin what TENSORBOARD, WANDB and MLFLOW ask for; called in rank 0 only.

    Raises:
        SinkError: one of them is not installed, or cannot be begun.
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
