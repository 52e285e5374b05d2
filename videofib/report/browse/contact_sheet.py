"""Clips as still and moving pictures: contact sheets, outlined frames, animations."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from videofib.files import replacing
from videofib.printable import printable

_SIDE = 128  # height in pixels to which larger pictures are reduced
_SMALL = 64  # height in pixels below which pictures are enlarged
_GAP = 6
_LINE = 18
_ACROSS = 8  # frames side by side
_INK, _PALE, _PAPER, _ALARM = "#1a1a1a", "#555555", "#ffffff", "#a40000"
_OUTLINE = ("#000000", "#ffd400")  # dark beside bright is visible on any picture
_PLAY_MS = 200  # for each frame of an animation


@dataclass(frozen=True)
class Row:
    """A row of a contact sheet.

    Attributes:
        title, note: lines of text above the pictures.
        pictures: (H, W, C) uint8 each.
        captions: of each picture.
        alarm: text in red where there are no pictures, such as the reason.
    """

    title: str
    note: str = ""
    pictures: Sequence[np.ndarray] = ()
    captions: Sequence[str] = ()
    alarm: str = ""


def contact_sheet(rows: Sequence[Row]) -> Image.Image:
    """Rows of pictures with captions, eight across after the first, which stands alone at the left.

    The font is Pillow's own, the same everywhere; letters beyond ASCII appear as boxes.
    """
    pictures = [[_thumbnail(picture) for picture in row.pictures] for row in rows]
    width = max([800, *(_width(row) for row in pictures)]) + 2 * _GAP
    letters = int((width - 2 * _GAP) / _font().getlength("n"))
    alarms = [textwrap.wrap(printable(row.alarm), letters) for row in rows]
    heights = [
        (2 if row.note else 1) * _LINE + len(alarm) * _LINE + sum(map(_line_height, _lines(images))) + 3 * _GAP
        for row, images, alarm in zip(rows, pictures, alarms, strict=True)
    ]
    sheet = Image.new("RGB", (width, sum(heights) + _GAP), _PAPER)
    draw, y = ImageDraw.Draw(sheet), _GAP
    for row, images, alarm, height in zip(rows, pictures, alarms, heights, strict=True):
        _draw_row(sheet, draw, y, row, images, alarm)
        y += height
        draw.line([(0, y - _GAP), (width, y - _GAP)], "#cccccc")
    return sheet


def outlined(frame: np.ndarray, box: Sequence[int]) -> np.ndarray:
    """A copy of a frame (H, W, C) uint8 with a box (top, left, height, width) drawn into it."""
    picture = Image.fromarray(frame)
    top, left, height, width = box
    line = max(1, round(max(frame.shape[:2]) / 120))
    draw = ImageDraw.Draw(picture)
    for inset, color in zip((0, line), _OUTLINE, strict=True):
        corners = (left + inset, top + inset, left + width - 1 - inset, top + height - 1 - inset)
        if corners[2] >= corners[0] and corners[3] >= corners[1]:
            draw.rectangle(corners, outline=color, width=line)
    return np.asarray(picture)


def save_animation(file: Path, frames: np.ndarray) -> None:
    """Write frames (T, H, W, C) uint8 as a WebP animation that repeats, at five frames per second."""
    first, *rest = map(Image.fromarray, frames)
    save_picture(file, first, save_all=True, append_images=rest, duration=_PLAY_MS, loop=0)


def save_picture(file: Path, picture: Image.Image, **options: object) -> None:
    """Write a picture, in the format of the file's extension, completely or not at all.

    Raises:
        OSError: the file cannot be written.
    """
    form = Image.registered_extensions()[file.suffix]
    with replacing(file) as partial:
        picture.save(partial, format=form, quality=85, **options)


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, y: int, row: Row, images: list, alarm: list[str]) -> None:
    lines = [(row.title, _INK), *([(row.note, _PALE)] if row.note else []), *((line, _ALARM) for line in alarm)]
    for text, ink in lines:
        draw.text((_GAP, y), _fitted(text, sheet.width - 2 * _GAP), ink, _font())
        y += _LINE
    captions = iter(row.captions)
    start = _GAP
    for line in _lines(images):
        x = start
        for image in line:
            sheet.paste(image, (x, y))
            draw.text((x, y + image.height), _fitted(next(captions, ""), image.width), _PALE, _font())
            x += image.width + _GAP
        start = _GAP + images[0].width + _GAP  # below the second picture, since the first stands alone
        y += _line_height(line)


def _lines(images: list[Image.Image]) -> list[list[Image.Image]]:
    first = 1 + _ACROSS
    return [
        line
        for line in (images[:first], *(images[i : i + _ACROSS] for i in range(first, len(images), _ACROSS)))
        if line
    ]


def _line_height(line: list[Image.Image]) -> int:
    return max(image.height for image in line) + _LINE + _GAP


def _width(images: list[Image.Image]) -> int:
    return sum(image.width + _GAP for image in images[: 1 + _ACROSS])


def _thumbnail(picture: np.ndarray) -> Image.Image:
    image = Image.fromarray(picture)
    if image.height > _SIDE:
        return image.resize((max(1, round(image.width * _SIDE / image.height)), _SIDE), Image.Resampling.LANCZOS)
    factor = -(-_SMALL // image.height)
    return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)


def _font() -> ImageFont.FreeTypeFont:
    return ImageFont.load_default(13)


def _fitted(text: str, width: int) -> str:
    """Text cut to a width in pixels."""
    text, font = printable(text), _font()
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."
