"""Pictures: every kind of pixels, EXIF's orientations, and files that are damaged, huge or something else."""

import os
import random
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageOps

from videofib.data.errors import DecodeError
from videofib.data.source import ByteRange
from videofib.data.video.decode import estimate, examine, probe, read_frames
from videofib.data.video.pictures import is_picture, read_picture


def colours(height=24, width=40):
    """A picture whose pixels all differ, so that no turn of it is another."""
    y, x = np.mgrid[:height, :width]
    return np.stack([y * 10, x * 6, (y + x) * 4], axis=2).astype(np.uint8)


def grey(picture):
    return np.repeat(np.asarray(picture.convert("L"))[..., None], 3, axis=2)


RGB = Image.fromarray(colours())
MODES = {  # name -> (the picture that is written, its format, what is read)
    "grey": (RGB.convert("L"), "png", grey(RGB)),
    "two colours": (RGB.convert("1"), "png", np.asarray(RGB.convert("1").convert("RGB"))),
    "grey and alpha": (RGB.convert("LA"), "png", grey(RGB)),
    "alpha": (Image.merge("RGBA", (*RGB.split(), RGB.convert("L"))), "png", colours()),
    "alpha in webp": (Image.merge("RGBA", (*RGB.split(), RGB.convert("L").point(lambda v: v | 1))), "webp", colours()),
    "palette": (RGB.quantize(32), "png", np.asarray(RGB.quantize(32).convert("RGB"))),
    "bmp": (RGB, "bmp", colours()),
    "bmp with a palette": (RGB.quantize(32), "bmp", np.asarray(RGB.quantize(32).convert("RGB"))),
}


@pytest.mark.parametrize("name", MODES)
def test_pixels_of_every_kind_become_rgb(name, tmp_path):
    picture, kind, expected = MODES[name]
    picture.save(tmp_path / f"a.{kind}", **({"lossless": True, "exact": True} if kind == "webp" else {}))
    read, stored, codec = read_picture(tmp_path / f"a.{kind}")
    assert read.dtype == np.uint8
    assert np.array_equal(read, expected)
    assert (stored, codec) == ((24, 40), kind)


def test_a_transparent_colour_of_a_palette_is_shown(tmp_path):
    RGB.quantize(16).save(tmp_path / "a.png", transparency=3)
    assert np.array_equal(read_picture(tmp_path / "a.png")[0], np.asarray(RGB.quantize(16).convert("RGB")))


def test_sixteen_bits_of_grey_keep_the_upper_eight(tmp_path):
    deep = (np.arange(24 * 40, dtype=np.uint32).reshape(24, 40) * 68).astype(np.uint16)  # up to 65,212
    Image.fromarray(deep).save(tmp_path / "a.png")
    read, _, _ = read_picture(tmp_path / "a.png")
    assert np.array_equal(read, np.repeat((deep >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_cmyk_is_read_as_pillow_does(tmp_path):
    RGB.convert("CMYK").save(tmp_path / "a.jpg", quality=95)
    read, _, codec = read_picture(tmp_path / "a.jpg")
    assert codec == "jpeg"
    assert np.abs(read.astype(int) - colours()).mean() < 4


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpg", "png", "webp"])
def test_pictures_are_turned_upright(orientation, kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    RGB.save(tmp_path / f"a.{kind}", exif=exif)
    with Image.open(tmp_path / f"a.{kind}") as picture:
        expected = np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    read, stored, _ = read_picture(tmp_path / f"a.{kind}")
    assert np.array_equal(read, expected)
    assert stored == (24, 40)


def test_a_damaged_or_unknown_orientation_is_none(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 77
    RGB.save(tmp_path / "a.png", exif=exif)
    RGB.save(tmp_path / "b.png", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")
    for name in "ab":
        assert np.array_equal(read_picture(tmp_path / f"{name}.png")[0], colours())


def test_an_animation_is_no_picture_and_a_stereo_photograph_is(tmp_path):
    others = [Image.fromarray(colours() // 2), Image.fromarray(colours() // 3)]
    for kind in ("png", "webp"):
        RGB.save(tmp_path / f"a.{kind}", save_all=True, append_images=others, duration=100)
        with pytest.raises(DecodeError, match=rf"a\.{kind}: an animation of 3 pictures"):
            read_picture(tmp_path / f"a.{kind}")
    RGB.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=others)
    read, _, codec = read_picture(tmp_path / "a.jpg")
    assert codec == "jpeg"
    assert np.abs(read.astype(int) - colours()).mean() < 4


def png_of(width, height):
    """A PNG whose header claims a size, and whose content is a few bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("width", "height"), [(100_000, 100_000), (12_000, 9_000), (9_000, 8_000)])
def test_a_picture_that_would_fill_the_memory_is_one_line(width, height, tmp_path):
    (tmp_path / "bomb.png").write_bytes(png_of(width, height))
    with pytest.raises(DecodeError, match=r"bomb\.png: (pictures of more than|frames of 9000x8000)") as caught:
        read_frames(tmp_path / "bomb.png", [0])
    assert "\n" not in str(caught.value)


def test_text_that_inflates_in_a_png_is_one_line(tmp_path):
    from PIL.PngImagePlugin import PngInfo

    info = PngInfo()
    info.add_text("comment", "a" * (80 << 20), zip=True)
    RGB.save(tmp_path / "a.png", pnginfo=info)
    with pytest.raises(DecodeError, match=r"a\.png: cannot be read as a picture"):
        read_picture(tmp_path / "a.png")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp"])
def test_a_picture_that_is_cut_off_is_named(kind, tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save(tmp_path / f"a.{kind}")
    content = (tmp_path / f"a.{kind}").read_bytes()
    for part in (0.1, 0.5, 0.9):
        (tmp_path / f"cut.{kind}").write_bytes(content[: int(part * len(content))])
        with pytest.raises(DecodeError, match=rf"cut\.{kind}: "):
            read_picture(tmp_path / f"cut.{kind}")


@pytest.mark.parametrize("kind", ["jpg", "png", "webp", "bmp"])
def test_random_damage_raises_nothing_else(kind, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    RGB.save(tmp_path / f"a.{kind}", **({} if kind == "bmp" else {"exif": exif}))
    content, rng, messages = (tmp_path / f"a.{kind}").read_bytes(), random.Random(0), []
    for _ in range(150):
        damaged = bytearray(content)
        for _ in range(rng.randrange(1, 12)):
            damaged[rng.randrange(min(len(damaged), 400))] = rng.randrange(256)
        (tmp_path / f"b.{kind}").write_bytes(damaged)
        try:
            read_picture(tmp_path / f"b.{kind}")
        except DecodeError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(f"b.{kind}: " in message and "\n" not in message for message in messages)


def test_what_is_no_picture_says_so(tmp_path, shared_data):
    (tmp_path / "text.jpg").write_text("no picture\n" * 50)
    (tmp_path / "video.png").write_bytes((shared_data / "hostile/codec_h264.mp4").read_bytes())
    (tmp_path / "empty.jpg").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe.jpg")
    for name, reason in (
        ("text.jpg", "not a picture that can be read"),
        ("video.png", "not a picture that can be read"),
        ("empty.jpg", "the file is empty"),
        ("pipe.jpg", "not a file"),
        ("absent.jpg", "no such file"),
    ):
        for read in (probe, lambda path: read_frames(path, [0])):
            with pytest.raises(DecodeError, match=rf"{name}: {reason}"):
                read(tmp_path / name)


def test_the_name_decides_and_without_one_the_first_bytes(tmp_path, shared_data):
    for kind in ("jpeg", "png", "webp", "bmp"):
        RGB.save(tmp_path / kind, format=kind)
        assert is_picture(tmp_path / kind)
        assert probe(tmp_path / kind).codec == kind
    RGB.save(tmp_path / "jpeg.mp4", format="JPEG")
    assert not is_picture(tmp_path / "jpeg.mp4")
    with pytest.raises(DecodeError, match="not a video"):
        probe(tmp_path / "jpeg.mp4")
    assert not is_picture(shared_data / "hostile/codec_h264.mp4")
    assert not is_picture(tmp_path / "absent")


def test_a_picture_within_a_tar_reads_as_its_own_file(tmp_path):
    RGB.save(tmp_path / "a.png")
    content = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.tar").write_bytes(b"\0" * 512 + content + b"\xff" * 512)
    part = ByteRange(str(tmp_path / "a.tar"), 512, len(content))
    assert np.array_equal(read_frames(part, [0])[0], colours())
    with pytest.raises(DecodeError, match="was it replaced"):
        read_frames(ByteRange(str(tmp_path / "a.tar"), 512, 1 << 20), [0])


def test_a_picture_is_a_video_of_one_frame(tmp_path):
    RGB.save(tmp_path / "a.png")
    path = tmp_path / "a.png"
    assert estimate(path).num_frames == 1
    info = probe(path)
    assert (info.num_frames, info.fps, info.width, info.height, info.duration, info.codec) == (1, 0, 40, 24, 0, "png")
    assert examine(path).random_access is False
    assert np.array_equal(examine(path).middle, colours())
    for backend in ("auto", "pyav", "decord", "torchcodec"):
        assert np.array_equal(read_frames(path, [0, 0], backend=backend), np.stack([colours()] * 2))
