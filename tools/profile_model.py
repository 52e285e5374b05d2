"""What a config's model costs: parameters, multiply-adds and activations.

python tools/profile_model.py --cfg configs/<Dataset>/<experiment>.yaml TIMESFORMER.DEPTH 6

A multiplication and an addition count once, as in the papers; sparse attention counts its true pairs. The model is run
on the CPU twice, on one clip of TEST_CROP_SIZE.
"""

from videofib.models.profiling import Cost, cost
from videofib.run.main import config_from_command_line
from videofib.run.models import build_model


def table(found: Cost, views: int) -> str:
    """What a person reads; of one clip, and of a video's ``views``."""
    lines = [
        f"parameters                        {found.parameters / 1e6:12.2f} M",
        f"multiply-adds of a clip           {found.multiply_adds / 1e9:12.2f} G",
        *(f"  {name:31} {count / 1e9:12.2f} G" for name, count in found.by_operator.items() if count),
        f"multiply-adds of a video, {views:2} views {found.multiply_adds * views / 1e9:10.2f} G",
        f"activations of a clip             {found.activations / 1e6:12.2f} M",
        f"not counted: {', '.join(sorted(found.uncounted)) or 'nothing'}",
    ]
    return "\n".join(lines)


def main() -> None:
    try:
        cfg = config_from_command_line(None)
        model = build_model(cfg)
    except ValueError as error:  # a ConfigError, or sizes that describe no model
        raise SystemExit(f"error: {error}") from None
    size = cfg.DATA.TEST_CROP_SIZE
    found = cost(model, (3, cfg.DATA.NUM_FRAMES, size, size))
    print(table(found, cfg.TEST.NUM_ENSEMBLE_VIEWS * cfg.TEST.NUM_SPATIAL_CROPS))


if __name__ == "__main__":
    main()
