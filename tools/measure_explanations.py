"""Measure whether the heat of explanations shows what a model needs, and on the motion data set what it should look at.

    python tools/measure_explanations.py --model RUN --list FILE [--num 48] [--motion DIR] [--block B ...]

Deletion: patches of a clip get its mean colour, those with the most heat first, and the probability of the class that
the model predicts falls; the table has the mean area under this curve, of random orders, and for how many videos the
area is smaller than that of random orders. With --motion, the folder that data_prep/motion.py wrote the listed videos
into, the share of heat within the sprite's box is compared with the box's share of the frame. --block adds Grad-CAM on
the tokens that other blocks take. Videos are evenly spaced over the list, and explained in one view, the centre of the
middle clip.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from videofib.data.lists.found import read_labelled
from videofib.prep.motion import MotionSet, clip_of, sprite_boxes
from videofib.printable import printable
from videofib.report.browse.clips import Clip, evenly_spaced
from videofib.report.explanation.explained import FRACTIONS, RANDOM
from videofib.run.load import load
from videofib.run.video_options import errors_in_one_line


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, metavar="FROM", help="as for videofib explain")
    parser.add_argument("--list", required=True, metavar="FILE", help="a list of videos, with labels or without")
    parser.add_argument("--num", type=int, default=48, metavar="N", help="videos (default 48)")
    parser.add_argument("--motion", type=Path, metavar="DIR", help="what data_prep/motion.py wrote")
    parser.add_argument("--block", type=int, nargs="*", default=[], metavar="B", help="also Grad-CAM of these")
    args = parser.parse_args(argv)
    with errors_in_one_line():
        print(measure(args.model, args.list, args.num, args.motion, args.block))


def measure(model: str, listed: str, num: int, motion: Path | None, blocks: Sequence[int]) -> str:
    """The table.

    Raises:
        CheckpointError, ConfigError, ManifestError, DecodeError, OSError, ValueError: of the model, list or videos.
    """
    saved = load(model)
    settings = None if motion is None else MotionSet(**json.loads((motion / "motion.json").read_text()))
    paths, labels = read_labelled(listed)
    chosen = evenly_spaced(len(paths), num)
    areas: dict[str, list[float]] = {}
    inside: dict[str, list[float]] = {}
    right, box = 0, []
    for index in tqdm(chosen, "videos", disable=not sys.stderr.isatty()):
        found = [saved.explain(paths[index], check=True)]
        found += [saved.explain(paths[index], methods=["gradcam"], block=block, check=True) for block in blocks]
        right += found[0].label == labels[index]
        sprite = None if settings is None else cells(found[0].views[0].clip, paths[index], settings)
        for number, explanation in enumerate(found):
            suffix = f", block {blocks[number - 1]}" if number else ""
            for name, area in explanation.areas().items():
                if name != RANDOM or not number:
                    areas.setdefault(name + suffix, []).append(area)
            for name, heat in explanation.heat.items():
                if sprite is not None and heat.any():
                    inside.setdefault(name + suffix, []).append(share_inside(heat[0], sprite))
        if sprite is not None:
            box.append(float(sprite.mean()))
    lines = [f"{len(chosen)} videos, {right} predicted right; areas under {len(FRACTIONS)} points, in percent"]
    for name, values in areas.items():
        smaller = sum(one < other for one, other in zip(values, areas[RANDOM], strict=True))
        note = "" if name == RANDOM else f"  smaller than random: {smaller} of {len(values)}"
        lines.append(f"deletion {name:<18} {100 * np.mean(values):5.1f}{note}")
    for name, values in inside.items():
        more = f"median {np.median(np.array(values) / box[: len(values)]):.2f} x" if len(values) == len(box) else ""
        lines.append(f"heat in the sprite's box, {name:<18} {100 * np.mean(values):5.1f}  of {len(values)}  {more}")
    if box:
        lines.append(f"the box's share of the frame {100 * np.mean(box):5.1f}")
    return "\n".join(lines)


def cells(clip: Clip, path: str, settings: MotionSet) -> np.ndarray:
    """How much of each pixel of a clip (T, H, W) the sprite's box covers, 0 to 1.

    Raises:
        ValueError: a video of another size than the settings say, or another name.
    """
    boxes = sprite_boxes(clip_of(path), settings)
    if clip.full_frame.shape[:2] != boxes.shape[1:]:
        raise ValueError(
            f"{printable(path)} has frames of {clip.full_frame.shape[:2]}, not of {boxes.shape[1:]} pixels"
        )
    top, left, height, width = clip.box
    taken = boxes[list(clip.indices), top : top + height, left : left + width].astype(np.float32)
    size = clip.frames.shape[2], clip.frames.shape[1]
    return np.stack([np.asarray(Image.fromarray(one).resize(size, Image.Resampling.BOX)) for one in taken])


def share_inside(heat: np.ndarray, covered: np.ndarray) -> float:
    """The share of heat (t, h, w) in what is covered of each pixel (T, H, W); heat is even within each cell."""
    area = torch.nn.functional.adaptive_avg_pool3d(torch.from_numpy(covered)[None], heat.shape)[0].numpy()
    return float((heat * area).sum() / heat.sum())


if __name__ == "__main__":
    main()
