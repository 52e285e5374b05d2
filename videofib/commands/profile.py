"""Count the parameters, multiply-adds and activations of a config's model.

videofib profile --cfg NAME_OR_FILE TIMESFORMER.DEPTH 6

A multiplication and an addition count once, as in the papers; sparse attention counts the pairs that it computes. The
model runs twice on the CPU, on one clip of TEST_CROP_SIZE.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from videofib.printable import printable
from videofib.report.markup.numbers import amount
from videofib.run.command_line import config_from_command_line
from videofib.signals import sigint_deferred

if TYPE_CHECKING:
    from videofib.models.profiling import Cost


def main(argv: Sequence[str] | None = None) -> None:
    try:
        cfg = config_from_command_line(argv, prog="videofib profile", description=__doc__)
        with sigint_deferred():
            from videofib.models.profiling import cost
            from videofib.run.models import build_model
            from videofib.run.tasks import choose_first_task
        model = choose_first_task(build_model(cfg))
    except ValueError as error:  # a ConfigError, or sizes that describe no model
        raise SystemExit(printable(f"error: {error}")) from None
    size = cfg.DATA.TEST_CROP_SIZE
    found = cost(model, (3, cfg.DATA.NUM_FRAMES, size, size))
    print(table(found, views=cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS))


def table(found: Cost, views: int) -> str:
    """The cost of one clip, and of a video of ``views`` views, as lines to print."""
    rows = [
        ("parameters", found.parameters),
        ("multiply-adds of a clip", found.multiply_adds),
        *((f"  {name}", count) for name, count in found.by_operator.items() if count),
        (f"multiply-adds of a video, {views} views", found.multiply_adds * views),
        ("activations of a clip", found.activations),
    ]
    lines = [f"{name:36} {amount(value):>10}" for name, value in rows]
    lines.append(f"not counted: {', '.join(sorted(found.uncounted)) or 'nothing'}")
    return "\n".join(lines)
