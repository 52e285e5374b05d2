"""Convert weights to another project's layout.

videofib convert --cfg configs/<Dataset>/<experiment>.yaml --weights FROM --to official --out FILE.pyth
videofib convert --cfg runs/mine/config.yaml --weights FROM --to huggingface --out FOLDER KEY VALUE ...

The config describes the model to write: where its number of frames or its resolution differs from that of FROM,
embeddings are resized. FROM is a checkpoint of videofib, the official TimeSformer or PySlowFast, a Hugging Face or timm
folder, a timm or VideoMAE file. Prints which weights were loaded, resized, newly initialised and unused.
"""

import argparse
from collections.abc import Sequence

from videofib.checkpoint.file import CheckpointError
from videofib.config import ConfigError, load_config
from videofib.models.pretrained.export import save_hugging_face, save_official
from videofib.models.pretrained.load import load_pretrained
from videofib.run.models import build_model
from videofib.run.preflight import read_class_names


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    try:
        cfg = load_config(args.cfg, args.pairs)
        model = build_model(cfg)
        report = load_pretrained(
            model,
            args.weights,
            part=args.part,
            strict=args.strict,
            position_resize=cfg.TIMESFORMER.POSITION_RESIZE,
            time_resize=cfg.TIMESFORMER.TIME_RESIZE,
        )
        print(report)
        if args.to == "official":
            written = save_official(model, args.out, config=cfg.dump())
        else:
            written = save_hugging_face(model, args.out, class_names=read_class_names(cfg))
    except (ConfigError, CheckpointError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"wrote {written}")
    if settings := model.attention_settings():
        print(f"note: {args.to} models attend densely, this one with {settings}; their outputs will differ")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "videofib convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cfg", required=True, metavar="FILE", help="the config of the model")
    parser.add_argument("--weights", required=True, metavar="FROM", help="a file or folder")
    parser.add_argument("--part", metavar="NAME", help="which model of FROM, if it holds several, such as teacher")
    parser.add_argument("--to", required=True, choices=("official", "huggingface"), help="the layout to write")
    parser.add_argument("--out", required=True, metavar="PATH", help="a .pyth file (official) or folder (huggingface)")
    parser.add_argument("--strict", action="store_true", help="refuse weights that do not fit unchanged")
    parser.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the config")
    return parser.parse_args(argv)
