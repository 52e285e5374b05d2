"""Reading one picture: a video of one frame, or a frame of a folder.

A picture comes out as image data sets are read elsewhere (Pillow's ``convert("RGB")``, as torchvision's): transparency
is dropped, palettes and CMYK become RGB, grey has three equal channels. Beyond that, 16 bits of grey keep their upper 8
bits, as Pillow itself reads 16 bits of RGB, and pictures are turned upright by the orientation that EXIF states.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image

from videofib.data.errors import DecodeError
from videofib.data.lists.extensions import PICTURE_EXTENSIONS
from videofib.data.source import ByteRange, FrameFolder, Source, regular_file
from videofib.data.video.display import Display
from videofib.data.video.memory import MOST_PIXELS, check_frame_size

_FORMATS = ("BMP", "JPEG", "PNG", "WEBP")
_ORIENTATION = 0x0112  # of EXIF
# EXIF's orientations 2 to 8 as what makes a stored picture upright; 1 is upright.
_DISPLAYS = {
    2: Display(mirrored=True),
    3: Display(turns=2),
    4: Display(turns=2, mirrored=True),
    5: Display(turns=1, mirrored=True),
    6: Display(turns=3),
    7: Display(turns=3, mirrored=True),
    8: Display(turns=1),
}
_HEADER = 16  # bytes by which a picture without a name is recognised


def is_picture(source: Source) -> bool:
    """Whether a source is one picture: by the extension of its name, or where it has none, by its first bytes.

    So a picture that is called .mp4 is no video, as before. Parts of files, and copies of those behind URLs, have no
    names of their own.
    """
    if isinstance(source, FrameFolder):
        return False
    if not isinstance(source, ByteRange) and (suffix := Path(source).suffix):
        return suffix.lower() in PICTURE_EXTENSIONS
    try:
        with _opened(source, _HEADER) as file:
            start = file.read(_HEADER)
    except (DecodeError, OSError):
        return False  # whoever reads it will report why
    is_webp = start.startswith(b"RIFF") and start[8:12] == b"WEBP"
    return is_webp or start.startswith((b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"BM"))


def read_picture(source: str | Path | ByteRange) -> tuple[np.ndarray, tuple[int, int], str]:
    """A picture (H, W, 3) uint8 RGB, upright; (height, width) as stored; its format, such as ``jpeg``.

    Raises:
        DecodeError: no such file, no picture of these formats, one that is damaged or cut off, an animation, or one of
            more than ``memory.MOST_PIXELS``.
    """
    with _image(source) as image:
        stored, name = (image.height, image.width), (image.format or "").lower()
        image.load()
        display = _display(image)
        return np.array(display.upright(_rgb(image)), order="C"), stored, "jpeg" if name == "mpo" else name


def stored_size(source: str | Path | ByteRange) -> tuple[int, int]:
    """(height, width) of a picture as stored, before it is turned, from its header alone.

    Raises:
        DecodeError: as ``read_picture``, as far as the header shows.
    """
    with _image(source) as image:
        return image.height, image.width


@contextmanager
def _image(source: str | Path | ByteRange) -> Iterator[Image.Image]:
    with _opened(source) as file:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of damage that does not matter, as in EXIF
                warnings.simplefilter("error", Image.DecompressionBombWarning)  # it is more than is read at any rate
                image = Image.open(file, formats=_FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise DecodeError(f"{source}: pictures of more than {MOST_PIXELS:,} pixels are refused") from error
        except Image.UnidentifiedImageError as error:
            raise DecodeError(f"{source}: not a picture that can be read (BMP, JPEG, PNG or WebP)") from error
        except Exception as error:  # a damaged file may raise anything
            raise DecodeError(f"{source}: cannot be read as a picture: {_reason(error)}") from error
        with image:
            check_frame_size(str(source), image.width, image.height)
            if image.format != "MPO" and (count := getattr(image, "n_frames", 1)) > 1:  # an MPO has previews, too
                raise DecodeError(f"{source}: an animation of {count} pictures; write it as a video")
            try:
                yield image
            except DecodeError:
                raise
            except Exception as error:
                raise DecodeError(f"{source}: the picture does not decode: {_reason(error)}") from error


@contextmanager
def _opened(source: str | Path | ByteRange, most: int | None = None) -> Iterator[BinaryIO]:
    """The bytes of a source; of a part of a file only the first ``most``."""
    path = regular_file(source)
    try:
        with path.open("rb") as file:
            if isinstance(source, ByteRange):
                file.seek(source.start)
                yield io.BytesIO(file.read(source.size if most is None else min(most, source.size)))
            else:
                yield file
    except OSError as error:
        raise DecodeError(f"{source}: {error.strerror or error}") from error


def _display(image: Image.Image) -> Display:
    """What makes a picture upright; one whose EXIF is damaged counts as upright."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the damage
        try:
            return _DISPLAYS.get(image.getexif().get(_ORIENTATION, 1), Display())
        except Exception:  # of any kind, too
            return Display()


def _rgb(image: Image.Image) -> np.ndarray:
    """(H, W, 3) uint8."""
    if image.mode.startswith("I"):  # 16 bits of grey, which Pillow would cut off at 255
        grey = (np.asarray(image).astype(np.int32) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
