"""What the model will see: clips of a data set as a config reads, crops and augments them, on a page to look at.

python tools/browse_dataset.py --cfg configs/<Dataset>/<experiment>.yaml --split train --out browse KEY VALUE ...

Writes OUT/index.html with the clips as animations, and OUT/sheet_1.png with their frames. Of training videos several
draws stand side by side; of test videos all views do.
"""

import argparse
from pathlib import Path

from videofib.config import ConfigError, load_config
from videofib.data.lists.manifest import ManifestError
from videofib.report.browse import browse, spread
from videofib.report.browse_page import write_folder
from videofib.run.loaders import build_eval_loader, build_train_loader
from videofib.run.preflight import check_split, read_class_names


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cfg", required=True, metavar="FILE", help="the experiment's YAML file")
    parser.add_argument("--split", choices=("train", "val", "test"), default="train")
    parser.add_argument("--num", type=_count, default=8, help="videos, spread evenly over the split")
    parser.add_argument("--draws", type=_count, default=4, help="epochs of each training video, side by side")
    parser.add_argument("--out", type=Path, help="folder to write; by default OUTPUT_DIR/browse_<split>")
    parser.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="change the config")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> None:
    args = parse(argv)
    try:
        cfg = load_config(args.cfg, args.pairs)
        training = args.split == "train"
        loader = build_train_loader(cfg) if training else build_eval_loader(cfg, args.split)
        check_split(cfg, loader, args.split)
        class_names = read_class_names(cfg)
        records = loader.dataset.records
        videos = browse(loader.dataset, spread(len(records), args.num), args.draws)
        page = write_folder(
            args.out or Path(cfg.OUTPUT_DIR) / f"browse_{args.split}",
            videos,
            title=f"What the model sees: {args.split}",
            notes=[
                f"{len(videos)} of {len(records)} videos of the {args.split} split in {cfg.DATA.PATH_TO_DATA_DIR}, as "
                f"{args.cfg} reads them{' with ' + ' '.join(args.pairs) if args.pairs else ''}.",
                "Below each clip is its first frame before cropping, with the crop outlined.",
                *(["Not shown: MIXUP mixes these clips afterwards."] if cfg.MIXUP.ENABLE and training else []),
            ],
            class_names=class_names,
        )
    except (ConfigError, ManifestError, OSError) as error:
        raise SystemExit(f"error: {error}") from None
    broken = sum(bool(video.reason) for video in videos)
    print(f"wrote {page}: {len(videos)} videos, {sum(len(v.clips) for v in videos)} clips, {broken} unreadable")


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, got {count}")
    return count


if __name__ == "__main__":
    main()
