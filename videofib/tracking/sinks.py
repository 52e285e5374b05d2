"""Where a run's figures go beside its log: TensorBoard, Weights & Biases, MLflow.

Each is a handler of the one stream that ``logging.log_stats`` writes to, and is imported only when it is asked for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from videofib.tracking.log import add_stats_handler

logger = logging.getLogger(__name__)

_PLACES = ("epoch", "epochs", "step", "steps")  # of a line: where it is, not what it says


class SinkError(RuntimeError):
    """Figures cannot be sent where they were asked for; the message says what to install or to mend."""


@dataclass(frozen=True)
class Sink:
    """One place for figures.

    Attributes:
        name: as people call it.
        write: takes figures by name (``train_iter/loss``), the whole number that orders lines of a kind, and the epochs
            done by then, as 1.5.
        close: called once, at the end.
    """

    name: str
    write: Callable[[dict[str, float], int, float], object]
    close: Callable[[], object]


def attach(sink: Sink) -> None:
    """Send all figures that are logged from now on to a sink, until the log is closed."""
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

    def write(figures: dict[str, float], place: int, epoch: float) -> None:
        for name, value in figures.items():
            writer.add_scalar(name, value, place)
        writer.flush()  # what a killed run has told is there

    return Sink("TensorBoard", write, writer.close)


def wandb(folder: str | Path, project: str, config: dict[str, object]) -> Sink:
    """A run of Weights & Biases, over the epochs; its own environment variables, as ``WANDB_MODE=offline``, hold.

    Raises:
        SinkError: wandb is not installed, or the run cannot be begun.
    """
    try:
        import wandb
    except ImportError as error:
        raise _missing("WANDB.ENABLE", "wandb", error) from error
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        run = wandb.init(project=project, dir=str(folder), name=Path(folder).resolve().name, config=config)
        run.define_metric("*", step_metric="epoch")
    except Exception as error:  # of several kinds: no network, no login
        raise SinkError(f"WANDB.ENABLE: {_reason(error)}; log in, or set the variable WANDB_MODE=offline") from error
    return Sink("Weights & Biases", lambda figures, place, epoch: run.log({**figures, "epoch": epoch}), run.finish)


def mlflow(uri: str, experiment: str, name: str, config: dict[str, object]) -> Sink:
    """A run of MLflow, on a server or in a folder.

    Raises:
        SinkError: mlflow is not installed, or the run cannot be begun.
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
        for start in range(0, len(params), 100):  # as many as one request may have
            client.log_batch(run.info.run_id, params=params[start : start + 100])
    except Exception as error:  # of several kinds: no server, no rights
        raise SinkError(f"MLFLOW.ENABLE, at {uri}: {_reason(error)}") from error

    def write(figures: dict[str, float], place: int, epoch: float) -> None:
        now = round(time.time() * 1000)
        client.log_batch(run.info.run_id, metrics=[Metric(key, value, now, place) for key, value in figures.items()])

    return Sink("MLflow", write, lambda: client.set_terminated(run.info.run_id))


def scalars(stats: dict) -> dict[str, float]:
    """The figures of a line that are finite numbers, by the line's kind and their name."""
    return {
        f"{stats.get('_type', 'stats')}/{name}": float(value)
        for name, value in stats.items()
        if name not in _PLACES and isinstance(value, int | float) and math.isfinite(value)
    }


def place(stats: dict) -> tuple[int, float]:
    """Where a line is: the batches done (or, for whole epochs, these), and the epochs, as 1.5."""
    epoch, step, steps = (stats.get(name) or 0 for name in ("epoch", "step", "steps"))
    if not steps:
        return epoch, float(epoch)
    return (epoch - 1) * steps + step, epoch - 1 + step / steps


class _Handler(logging.Handler):
    """Gives lines to a sink; the first that fails is told, and is the last: a run does not end for it."""

    def __init__(self, sink: Sink) -> None:
        super().__init__()
        self.sink, self.broken = sink, False

    def emit(self, record: logging.LogRecord) -> None:
        if self.broken:
            return
        try:
            self.sink.write(scalars(record.figures), *place(record.figures))
        except Exception as error:  # whatever a server or a full disk makes of it
            self._give_up(error)

    def close(self) -> None:
        super().close()
        try:
            self.sink.close()
        except Exception as error:
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self.broken = True
        logger.warning("%s gets no more figures: %s", self.sink.name, _reason(error))


def _missing(key: str, package: str, error: ImportError) -> SinkError:
    return SinkError(f"{key} needs {package}, which cannot be imported ({error}); pip install 'videofib[{package}]'")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
