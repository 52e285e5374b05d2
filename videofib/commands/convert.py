"""Convert weights to another project's layout.

videofib convert --cfg NAME_OR_FILE --weights FROM --to official --out FILE.pyth
videofib convert --cfg runs/mine/config.yaml --weights FROM --to huggingface --out FOLDER KEY VALUE ...

The config describes the model to write: where its number of frames or its resolution differs from that of FROM,
embeddings are resized. FROM is a checkpoint of videofib, the official TimeSformer or PySlowFast, a Hugging Face or timm
folder, a timm or VideoMAE file. Prints which weights were loaded, resized, newly initialised and unused.

The official and Hugging Face's own layouts describe dense attention, and other models are refused. With --remote-code,
a folder for Hugging Face has the code of the model beside its weights, and may have any of our models.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from videofib.config import ConfigError, load_config
from videofib.parser import Parser
from videofib.printable import printable
from videofib.signals import sigint_deferred

if TYPE_CHECKING:
    from fvcore.common.config import CfgNode

    from videofib.models.pretrained.weight_files import Weights


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.checkpoint.file import CheckpointError
        from videofib.models.pretrained.export import save_hugging_face, save_official
        from videofib.models.pretrained.load import load_pretrained
        from videofib.models.pretrained.weight_files import read_weights
        from videofib.run.models import build_model

    try:
        cfg = load_config(args.cfg, args.pairs)
        model, weights = build_model(cfg), read_weights(args.weights, args.part)
        names = class_names(cfg, weights, args.to)
        report = load_pretrained(
            model,
            weights,
            class_names=names,
            strict=args.strict,
            position_resize=cfg.TIMESFORMER.POSITION_RESIZE,
            time_resize=cfg.TIMESFORMER.TIME_RESIZE,
        )
        print(report)
        if args.to == "official":
            written = save_official(model, args.out, config=cfg.dump(), class_names=names)
        else:
            written = save_hugging_face(model, args.out, class_names=names, remote_code=args.remote_code)
    except (ConfigError, CheckpointError, ValueError) as error:
        raise SystemExit(printable(f"error: {error}")) from None
    print(f"wrote {printable(written)}")
    if args.remote_code:
        print("load it with AutoModelForVideoClassification.from_pretrained(FOLDER, trust_remote_code=True)")


def class_names(cfg: CfgNode, weights: Weights, to: str) -> Sequence[str] | None:
    """The names of the model's classes: those of the weights, or, where they have none or others, of the data set.

    Names that the weights do not have go into Hugging Face's layout alone, which has a field for them.

    Raises:
        ConfigError: the data set names another number of classes than the model has.
    """
    if weights.classes is not None and len(weights.classes) == cfg.MODEL.NUM_CLASSES:
        return weights.classes
    if weights.classes is None and to == "official":
        return None
    from videofib.run.class_names import read_class_names

    return read_class_names(cfg, "train")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib convert", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cfg", required=True, metavar="NAME_OR_FILE", help="the config of the model")
    parser.add_argument("--weights", required=True, metavar="FROM", help="a file or folder")
    parser.add_argument("--part", metavar="NAME", help="which model of FROM, if it holds several, such as teacher")
    parser.add_argument("--to", required=True, choices=("official", "huggingface"), help="the layout to write")
    parser.add_argument("--out", required=True, metavar="PATH", help="a .pyth file (official) or folder (huggingface)")
    parser.add_argument(
        "--remote-code",
        action="store_true",
        help="with huggingface: write the model's code beside its weights, which may then have sparse attention",
    )
    parser.add_argument("--strict", action="store_true", help="refuse weights that do not fit unchanged")
    parser.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="changes to the config")
    args = parser.parse_args(argv)
    if args.remote_code and args.to != "huggingface":
        parser.error("--remote-code is for --to huggingface; the official layout has no code beside its weights")
    return args
