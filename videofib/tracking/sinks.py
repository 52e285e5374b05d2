"""Services that receive a run's figures beside its log: TensorBoard, Weights & Biases, MLflow.

Each is a handler of the stream that ``log.log_stats`` writes to, and is imported only when it is used.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from videofib.tracking.log import add_stats_handler

logger = logging.getLogger(__name__)

_POSITION_KEYS = ("epoch", "epochs", "step", "steps")  # of a line: not figures, but their position in the run


class SinkError(RuntimeError):
    """Figures cannot be sent to a service; the message says what to install or to change."""


@dataclass(frozen=True)
class Sink:
    """A service that receives figures.

    Attributes:
        name: for messages.
        write: takes figures by name (``train_iter/loss``), an integer that orders the lines of a kind, and the epochs
            finished by then, such as 1.5.
        close: called once, at the end.
    """

    name: str
    write: Callable[[dict[str, float], int, float], object]
    close: Callable[[], object]


def attach(sink: Sink) -> None:
    """Send all figures to a sink, from now until the log is closed."""
    add_stats_handler(_Handler(sink))


def tensorboard(folder: str | Path) -> Sink:
    """Event files in a folder, which ``tensorboard --logdir`` reads.

    Raises:
        SinkError: tensorboard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise _missing("TENSORBOARD.ENABLE", "tensorboard", error) from error
    writer = SummaryWriter(str(folder))

    def write(figures: dict[str, float], order: int, epoch: float) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, order)
        writer.flush()  # so that a killed run loses nothing

    return Sink("TensorBoard", write, writer.close)


def wandb(folder: str | Path, project: str, config: dict[str, object]) -> Sink:
    """A run of Weights & Biases, over epochs; its environment variables, such as ``WANDB_MODE=offline``, apply.

    Raises:
        SinkError: wandb is not installed, or the run cannot be started.
    """
    try:
        import wandb
    except ImportError as error:
        raise _missing("WANDB.ENABLE", "wandb", error) from error
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(project=project, dir=str(folder), name=Path(folder).resolve().name, config=config)
        run.define_metric("*", step_metric="epoch")
    except Exception as error:  # of many types: no network, no login
        raise SinkError(f"WANDB.ENABLE: {_reason(error)}; log in, or set WANDB_MODE=offline") from error
    return Sink("Weights & Biases", lambda figures, order, epoch: run.log({**figures, "epoch": epoch}), run.finish)


def mlflow(uri: str, experiment: str, name: str, config: dict[str, object]) -> Sink:
    """A run of MLflow, on a server or in a folder.

    Raises:
        SinkError: mlflow is not installed, or the run cannot be started.
    """
    try:
        from mlflow import MlflowClient
        from mlflow.entities import Metric, Param
    except ImportError as error:
        raise _missing("MLFLOW.ENABLE", "mlflow", error) from error
    import time

    try:
        client = MlflowClient(tracking_uri=uri)
        found = client.get_experiment_by_name(experiment)
        run = client.create_run(found.experiment_id if found else client.create_experiment(experiment), run_name=name)
        params = [Param(key, str(value)[:500]) for key, value in config.items()]
        for start in range(0, len(params), 100):  # the most that one request may have
            client.log_batch(run.info.run_id, params=params[start : start + 100])
    except Exception as error:  # of many types: no server, no permission
        raise SinkError(f"MLFLOW.ENABLE, at {uri}: {_reason(error)}") from error

    def write(figures: dict[str, float], order: int, epoch: float) -> None:
        now = round(time.time() * 1000)
        client.log_batch(run.info.run_id, metrics=[Metric(key, value, now, order) for key, value in figures.items()])

    return Sink("MLflow", write, lambda: client.set_terminated(run.info.run_id))


def scalars(stats: dict) -> dict[str, float]:
    """The finite numbers of a line, by its kind and their names (``train_iter/loss``)."""
    return {
        f"{stats.get('_type', 'stats')}/{name}": float(value)
        for name, value in stats.items()
        if name not in _POSITION_KEYS and isinstance(value, int | float) and math.isfinite(value)
    }


def position(stats: dict) -> tuple[int, float]:
    """The steps finished by a line (of lines without steps, the epochs), and the epochs, such as 1.5."""
    epoch, step, steps = (stats.get(name) or 0 for name in ("epoch", "step", "steps"))
    if not steps:
        return epoch, float(epoch)
    return (epoch - 1) * steps + step, epoch - 1 + step / steps


class _Handler(logging.Handler):
    """Gives lines to a sink. The first failure is logged and disconnects the sink; the run continues."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self._sink, self._connected = sink, True

    def emit(self, record: logging.LogRecord) -> None:
        if not self._connected:
            return
        try:
            self._sink.write(scalars(record.figures), *position(record.figures))
        except Exception as error:  # of any type: servers, full disks
            self._disconnect(error)

    def close(self) -> None:
        super().close()
        try:
            self._sink.close()
        except Exception as error:
            self._disconnect(error)

    def _disconnect(self, error: Exception) -> None:
        self._connected = False
        logger.warning("%s receives no more figures: %s", self._sink.name, _reason(error))


def _missing(key: str, package: str, error: ImportError) -> SinkError:
    return SinkError(f"{key} needs {package}, which cannot be imported ({error}); pip install 'videofib[{package}]'")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
