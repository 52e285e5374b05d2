"""One picture of any kind -> a PNG or JPEG file, upright, RGB or grey, of bounded size; and the facts about it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from videofib.data.errors import DecodeError
from videofib.data.sampling import limited_size
from videofib.data.video.pictures import read_picture
from videofib.data.video.rgb import ToRGB
from videofib.files import replacing, sha256
from videofib.prep.dhash import dhash
from videofib.prep.transcode import Transcoded

_LEAST_HASHED = 16  # pixels of a side: smaller pictures of one class have the same hash, without being copies
SUFFIXES = {"png": ".png", "jpeg": ".jpg"}


@dataclass(frozen=True)
class PictureEncoding:
    """How pictures are written.

    Attributes:
        codec: ``png``, without loss, or ``jpeg``.
        short_side: pixels at most; 0: unchanged.
        quality: of JPEG, 1 to 95; its chroma is not subsampled.
    """

    codec: str = "png"
    short_side: int = 0
    quality: int = 95

    @property
    def suffix(self) -> str:
        """The extension of the files."""
        return SUFFIXES[self.codec]

    def as_dict(self) -> dict:
        """The settings that the result depends on."""
        settings = asdict(self)
        return settings if self.codec == "jpeg" else {name: settings[name] for name in ("codec", "short_side")}


def write_picture(
    source: str | Path, target: str | Path, encoding: PictureEncoding, raw: np.ndarray | None = None
) -> Transcoded:
    """Write a picture to ``target``, completely or not at all, and read it back.

    Args:
        raw: its pixels (H, W, 3) uint8 RGB, where ``source`` is an archive from which they were taken.

    Raises:
        DecodeError: ``source`` cannot be read, or what was written reads as something else.
        OSError: ``target`` cannot be written.
    """
    image = read_picture(source)[0] if raw is None else raw
    height, width = image.shape[:2]
    height, width = limited_size(height, width, encoding.short_side)
    if (height, width) != image.shape[:2]:
        image = ToRGB().scaled(image, height, width)
    is_grey = (image == image[..., :1]).all()
    picture = Image.fromarray(np.ascontiguousarray(image[..., 0] if is_grey else image))
    options = {"quality": encoding.quality, "subsampling": 0} if encoding.codec == "jpeg" else {}
    with replacing(target) as partial:
        picture.save(partial, format=encoding.codec, **options)
    try:
        written, _, codec = read_picture(target)
        if written.shape != image.shape or (encoding.codec == "png" and not np.array_equal(written, image)):
            raise DecodeError(f"{source}: what was written comes back as something else")
    except DecodeError:
        Path(target).unlink(missing_ok=True)
        raise
    return Transcoded(
        num_frames=1,
        fps=0.0,
        duration=0.0,
        width=width,
        height=height,
        codec=codec,
        rotation=0,
        mirrored=False,
        variable_rate=False,
        random_access=False,
        size=Path(target).stat().st_size,
        sha256=sha256(target),
        dhash=dhash(written) if min(height, width) >= _LEAST_HASHED else "",
        damaged="",
        clock_jumps=0,
    )
