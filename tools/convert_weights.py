"""Weights from one project's layout into another's.

python tools/convert_weights.py --cfg configs/<Dataset>/<experiment>.yaml --weights FROM --to official --out FILE.pyth
python tools/convert_weights.py --cfg runs/mine/config.yaml --weights FROM --to huggingface --out FOLDER KEY VALUE ...

The config describes the model that the weights are written from: with another number of frames or another resolution
than FROM has, embeddings are resized. FROM is a checkpoint of videofib, of the official TimeSformer or PySlowFast, a
Hugging Face or timm folder, a timm or VideoMAE file. What was loaded, resized, newly initialised and unused is printed.
"""

import argparse
from pathlib import Path

from videofib.checkpoint.file import CheckpointError
from videofib.config.defaults import ConfigError, load_config
from videofib.models.pretrained.export import save_hugging_face, save_official
from videofib.models.pretrained.load import load_pretrained
from videofib.run.models import build_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, metavar="FILE", help="the config of the model")
    parser.add_argument("--weights", required=True, metavar="FROM", help="a file or folder")
    parser.add_argument("--to", required=True, choices=("official", "huggingface"), help="the layout to write")
    parser.add_argument("--out", required=True, metavar="PATH", help="a .pyth file (official), a folder (huggingface)")
    parser.add_argument("--strict", action="store_true", help="refuse weights that do not fit as they are")
    parser.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes of the config")
    args = parser.parse_args()
    try:
        cfg = load_config(args.cfg, args.pairs)
        model = build_model(cfg)
        report = load_pretrained(
            model,
            args.weights,
            strict=args.strict,
            position_resize=cfg.TIMESFORMER.POSITION_RESIZE,
            time_resize=cfg.TIMESFORMER.TIME_RESIZE,
        )
        print(report)
        if args.to == "official":
            written = save_official(model, args.out, config=cfg.dump())
        else:
            classes = Path(cfg.DATA.PATH_TO_DATA_DIR) / "classes.txt"
            names = classes.read_text(encoding="utf-8").splitlines() if classes.is_file() else None
            written = save_hugging_face(model, args.out, class_names=names)
    except (ConfigError, CheckpointError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"written: {written}")
    if settings := model.attention_settings():
        print(f"note: attention there is dense, here it was {settings}; the numbers will differ")


if __name__ == "__main__":
    main()
