"""The motion data set: textured sprites over textured backgrounds; the class is in the movement alone.

    python data_prep/motion.py --out data/motion

writes H.264 files in UCF101's layout, with split files like the official ones:

    videos/<Class>/v_<Class>_g01_c01.mp4      g: the group (one background); c: the clip in the group
    annotations/classInd.txt  trainlist01.txt  testlist01.txt

A sprite has four coordinates: x, y, angle and (log) size. The first three wrap around: a sprite that leaves the frame
on the right returns on the left. The class is the coordinate that changes, and its direction:

    MoveRight x+  MoveLeft x-  MoveDown y+  MoveUp y-  RotateClockwise a+  RotateCounterclockwise a-  Grow s+  Shrink s-

Position and angle are uniformly distributed at every moment of every class. The size of a growing or shrinking sprite
at a random moment is distributed as that of the others. So a single frame carries no information about the class.
Moreover, clip c of group g has the same sprite, background, position and speed in all eight classes, so memorizing
pictures does not help. Played backwards, a clip is one of the opposite class. Sprites are bright, shaded from one side,
and backgrounds dim, so that a small model soon sees what moves and then has to learn how.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from videofib.files import remove_partial, replacing
from videofib.prep.encode import write_video
from videofib.prep.engines.parallel import run_parallel
from videofib.printable import printable

# class -> (the coordinate that changes: 0 x, 1 y, 2 angle, 3 size; the direction)
CLASSES = {
    "Grow": (3, +1),
    "MoveDown": (1, +1),
    "MoveLeft": (0, -1),
    "MoveRight": (0, +1),
    "MoveUp": (1, -1),
    "RotateClockwise": (2, +1),
    "RotateCounterclockwise": (2, -1),
    "Shrink": (3, -1),
}
CLIPS_PER_GROUP = 4
FPS = 25
NUM_FRAMES = 50
RADIUS = (0.15, 0.5)  # of a sprite, smallest and largest, as a fraction of the frame's height
CYCLES = (0.85, 1.3)  # distance that a moving sprite covers in a clip, in widths (heights) of the frame
TURNS = (1.0, 1.5)  # the same for a rotating sprite, in turns
GROWTH = (0.75, 0.95)  # the fraction of all sizes that a growing or shrinking sprite passes in a clip
TEXTURE = 48  # side of a sprite's own picture in pixels
DIM, BRIGHT = (0.05, 0.25), (0.65, 0.95)  # mean colours of backgrounds and of sprites, each channel


@dataclass(frozen=True)
class MotionSet:
    """The settings that determine every byte of the data set."""

    train_per_class: int = 200
    test_per_class: int = 24
    size: int = 64
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of a frame in pixels; an eighth wider than tall, so that spatial crops differ."""
        return self.size, self.size * 9 // 8 // 2 * 2

    def __post_init__(self) -> None:
        if self.train_per_class < 1 or self.test_per_class < 1:
            raise ValueError(
                f"at least one clip a class is needed, got train {self.train_per_class}, test {self.test_per_class}"
            )
        if self.size < 32 or self.size % 2:
            raise ValueError(f"size must be even and 32 or more, got {self.size}")


@dataclass(frozen=True)
class MotionClip:
    """One clip: its class, and the group and number that determine everything else."""

    label: str
    group: int
    number: int

    @property
    def path(self) -> str:
        return f"{self.label}/v_{self.label}_g{self.group:02d}_c{self.number:02d}.mp4"


def list_clips(settings: MotionSet) -> tuple[list[MotionClip], list[MotionClip]]:
    """The training and test clips, class by class. As in UCF101 the first groups are the test groups."""
    test_groups = -(-settings.test_per_class // CLIPS_PER_GROUP)

    def clips(count: int, first_group: int) -> list[MotionClip]:
        numbers = [(first_group + i // CLIPS_PER_GROUP, 1 + i % CLIPS_PER_GROUP) for i in range(count)]
        return [MotionClip(label, group, number) for label in CLASSES for group, number in numbers]

    return clips(settings.train_per_class, 1 + test_groups), clips(settings.test_per_class, 1)


def coordinates(clip: MotionClip, seed: int) -> np.ndarray:
    """The sprite's x, y, angle and size in every frame, ``(NUM_FRAMES, 4)`` in [0, 1); the first three wrap around."""
    rng = np.random.default_rng([seed, clip.group, clip.number, 0])
    axis, direction = CLASSES[clip.label]
    time = np.arange(NUM_FRAMES) / NUM_FRAMES - 0.5  # in clips, 0 in the middle
    pose = np.tile(rng.random(3), (NUM_FRAMES, 1))  # x, y, angle
    cycles, turns, growth = rng.uniform(*CYCLES), rng.uniform(*TURNS), rng.uniform(*GROWTH)
    moment = rng.uniform(-0.5, 0.5)
    if axis < 3:
        pose[:, axis] += direction * (turns if axis == 2 else cycles) * time
    # a sprite of constant size has the size that a growing one has at a random moment
    size = rng.uniform(growth / 2, 1 - growth / 2) + growth * (direction * time if axis == 3 else moment + 0 * time)
    return np.column_stack([pose % 1.0, size])


def render(clip: MotionClip, settings: MotionSet) -> np.ndarray:
    """The frames of a clip, ``(NUM_FRAMES, height, width, 3)`` uint8."""
    height, width = settings.shape
    sprite = _sprite(np.random.default_rng([settings.seed, clip.group, clip.number, 1]))  # (TEXTURE, TEXTURE, 4)
    background = _texture(np.random.default_rng([settings.seed, clip.group, 0, 2]), height, width, DIM, contrast=0.25)

    centre_x, centre_y, angle, radius = (values[:, None, None] for values in _placed(clip, settings))

    # the square of pixels around the centre that the sprite may cover, (T, side, side)
    reach = int(np.ceil(radius.max())) + 1
    steps = np.arange(-reach, reach + 1, dtype=np.float32)
    column, row = np.floor(centre_x) + steps[None, None, :], np.floor(centre_y) + steps[None, :, None]
    dx, dy = (column - centre_x) / radius, (row - centre_y) / radius
    # coordinates in the sprite's own picture, [-1, 1]: rotated back; rows run down, so a growing angle is clockwise
    u, v = np.cos(angle) * dx + np.sin(angle) * dy, np.cos(angle) * dy - np.sin(angle) * dx
    inside = u * u + v * v < 1
    pixel = ((row % height) * width + column % width).astype(int)[inside]  # (P,) pixels in all; the frame is a torus
    time = np.nonzero(inside)[0]  # (P,)
    painted = _bilinear(sprite, (v[inside] + 1) * (TEXTURE - 1) / 2, (u[inside] + 1) * (TEXTURE - 1) / 2)  # (P, 4)
    colour, alpha = painted[:, :3], painted[:, 3:]

    frames = np.tile(background.reshape(1, height * width, 3), (NUM_FRAMES, 1, 1))
    under = frames[time, pixel]
    frames[time, pixel] = under + alpha * (colour - under)
    return (frames.reshape(NUM_FRAMES, height, width, 3) * 255 + 0.5).astype(np.uint8)


def sprite_boxes(clip: MotionClip, settings: MotionSet) -> np.ndarray:
    """Where the sprite of a clip is, ``(NUM_FRAMES, height, width)`` bool: the square around it, of its diameter.

    The square wraps around the edges of the frame as the sprite does.
    """
    height, width = settings.shape
    x, y, _, radius = _placed(clip, settings)
    columns = _within(np.arange(width) + 0.5, x, radius, width)
    return _within(np.arange(height) + 0.5, y, radius, height)[:, :, None] & columns[:, None, :]


def clip_of(path: str | Path) -> MotionClip:
    """The clip that a file's name stands for: ``v_<Class>_g01_c01.mp4``.

    Raises:
        ValueError: another name.
    """
    found = re.fullmatch(r"v_(\w+)_g(\d+)_c(\d+)", Path(path).stem)
    if not found or found[1] not in CLASSES:
        raise ValueError(f"{printable(path)}: not the name of a clip of the motion data set")
    return MotionClip(found[1], int(found[2]), int(found[3]))


def _placed(clip: MotionClip, settings: MotionSet) -> np.ndarray:
    """The sprite's centre x, y in pixels, angle in radians and radius in pixels, each ``(NUM_FRAMES,)``."""
    height, width = settings.shape
    x, y, angle, scale = coordinates(clip, settings.seed).astype(np.float32).T
    return np.stack([x * width, y * height, angle * 2 * np.pi, height * RADIUS[0] * (RADIUS[1] / RADIUS[0]) ** scale])


def _within(positions: np.ndarray, centre: np.ndarray, radius: np.ndarray, length: int) -> np.ndarray:
    """Which positions (P,) on a circle of some length are at most ``radius`` (T,) from ``centre`` (T,): (T, P)."""
    distance = np.abs(positions[None, :] - centre[:, None]) % length
    return np.minimum(distance, length - distance) <= radius[:, None]


def _texture(
    rng: np.random.Generator, height: int, width: int, brightness: tuple[float, float], contrast: float
) -> np.ndarray:
    """Smooth coloured noise of several grain sizes around a random colour, ``(height, width, 3)`` in [0, 1]."""
    noise = np.zeros((height, width, 3), np.float32)
    for cells in (3, 6, 12):
        rows, columns = _interpolation(cells, height), _interpolation(cells, width)
        noise += np.einsum("yi,xj,ijc->yxc", rows, columns, rng.normal(size=(cells, cells, 3)), optimize=True)
    return np.clip(rng.uniform(*brightness, 3) + contrast * 0.25 * noise, 0, 1).astype(np.float32)


def _sprite(rng: np.random.Generator) -> np.ndarray:
    """A texture in the shape of a random blob, darker to one side so that its angle shows.

    ``(TEXTURE, TEXTURE, 4)``: colour and alpha in [0, 1].
    """
    colour = _texture(rng, TEXTURE, TEXTURE, BRIGHT, contrast=0.9)
    axis = np.linspace(-1, 1, TEXTURE)
    colour *= (0.75 + 0.25 * axis)[:, None]
    distance, angle = np.hypot(*np.meshgrid(axis, axis)), np.arctan2(*np.meshgrid(axis, axis))
    waves = np.arange(1, 5)
    swing, start = rng.normal(size=4) * 0.5 / waves, rng.uniform(0, 2 * np.pi, 4)
    edge = np.maximum(1 + (swing * np.cos(waves * angle[..., None] + start)).sum(-1), 0.15)
    edge *= 0.95 / edge.max()  # the farthest point of the blob is the sprite's radius
    alpha = np.clip((edge - distance) * TEXTURE / 4, 0, 1)  # soft over two pixels
    return np.concatenate([colour, alpha[..., None]], -1).astype(np.float32)


def _interpolation(cells: int, size: int) -> np.ndarray:
    """Weights ``(size, cells)`` that interpolate ``cells`` values linearly over ``size`` pixels."""
    return np.maximum(0, 1 - np.abs(np.linspace(0, cells - 1, size)[:, None] - np.arange(cells))).astype(np.float32)


def _bilinear(image: np.ndarray, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """``image (h, w, c)`` at fractional positions ``(...)`` -> ``(..., c)``; outside, its border is repeated."""
    row, column = np.clip(row, 0, image.shape[0] - 1.001), np.clip(column, 0, image.shape[1] - 1.001)
    top, left = row.astype(int), column.astype(int)
    down, right = (row - top)[..., None], (column - left)[..., None]
    flat, corner = image.reshape(-1, image.shape[2]), top * image.shape[1] + left
    upper = flat[corner] * (1 - right) + flat[corner + 1] * right
    corner += image.shape[1]
    lower = flat[corner] * (1 - right) + flat[corner + 1] * right
    return upper * (1 - down) + lower * down


def write_motion(out: str | Path, settings: MotionSet, jobs: int) -> None:
    """Write the data set; clips that an earlier, interrupted run has written are kept.

    Raises:
        ValueError: ``out`` contains a data set with other settings.
        RuntimeError: some clips could not be written; the message names them.
    """
    out = Path(out)
    record = out / "motion.json"
    if record.exists():
        earlier = json.loads(record.read_text())
        if earlier != asdict(settings):
            raise ValueError(
                f"{out} contains a motion data set with {earlier}, not {asdict(settings)}; choose another --out"
            )
    remove_partial(out)
    _write_text(record, json.dumps(asdict(settings), indent=1) + "\n")

    train, test = list_clips(settings)
    missing = [clip for clip in train + test if not (out / "videos" / clip.path).exists()]
    work = [(clip, settings, out / "videos" / clip.path) for clip in missing]
    failed = []
    for index, result in tqdm(
        run_parallel(_write_clip, work, jobs), "motion clips", len(work), disable=None if work else True
    ):
        if isinstance(result, Exception):
            failed.append(f"{missing[index].path}: {result}")
    if failed:
        raise RuntimeError(f"{len(failed)} clips could not be written; run again to write them:\n" + "\n".join(failed))

    number = {label: i for i, label in enumerate(CLASSES, 1)}
    # CRLF as in the official files; the official test lists have no label
    _write_text(out / "annotations/classInd.txt", "".join(f"{i} {label}\r\n" for label, i in number.items()))
    _write_text(out / "annotations/trainlist01.txt", "".join(f"{c.path} {number[c.label]}\r\n" for c in train))
    _write_text(out / "annotations/testlist01.txt", "".join(f"{c.path}\r\n" for c in test))
    print(
        f"{printable(out)}: {len(train)} training and {len(test)} test clips of {len(CLASSES)} classes "
        f"({len(work)} written now)"
    )


def _write_clip(work: tuple[MotionClip, MotionSet, Path]) -> None:
    clip, settings, path = work
    write_video(path, render(clip, settings), FPS)


def _write_text(path: Path, text: str) -> None:
    with replacing(path) as partial:
        partial.write_bytes(text.encode())
