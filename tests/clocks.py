"""Real videos whose frames show their numbers and whose clocks are odd, written with PyAV alone."""

import struct
from fractions import Fraction

import av
import numpy as np

TICK = Fraction(1, 90000)


def picture(number, height=48, width=64):
    """A picture of a number from 0 to 255: its sixteens are the grey of the left half, its ones that of the right."""
    image = np.empty((height, width, 3), np.uint8)
    image[:, : width // 2], image[:, width // 2 :] = 16 * (number // 16) + 8, 16 * (number % 16) + 8
    return image


def numbers(frames):
    """The numbers that frames (T, H, W, 3), or any part of them that reaches over the middle, show."""
    left, right = frames[:, 8:-8, 1:4].mean((1, 2, 3)), frames[:, 8:-8, -4:-1].mean((1, 2, 3))
    return (16 * (left // 16) + right // 16).astype(int).tolist()


def shown(path):
    """(time in seconds, number) of every frame, as PyAV decodes them in order."""
    with av.open(str(path)) as container:
        return [(frame.time, *numbers(frame.to_ndarray(format="rgb24")[None])) for frame in container.decode(video=0)]


def write(path, times, first=0, bframes=0, keyint=12, codec="libx264"):
    """Write pictures first, first + 1, ... that are shown at ``times``, in seconds and ascending."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.time_base = stream.codec_context.time_base = (
            TICK if codec == "libx264" and path.suffix != ".avi" else Fraction(1, 25)
        )
        stream.codec_context.gop_size, stream.codec_context.max_b_frames = keyint, bframes
        if codec == "libx264":
            stream.options = {"crf": "12", "preset": "veryfast", "x264-params": "scenecut=0:b-adapt=0:open-gop=0"}
        else:
            stream.options = {"qmin": "2", "qmax": "3"}
        for number, time in enumerate(times, first):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24").reformat(format="yuv420p", threads=1)
            frame.time_base = stream.codec_context.time_base
            frame.pts = round(Fraction(time) / frame.time_base)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def constant(count, start=0.0, fps=25):
    """The times of ``count`` frames at a constant rate."""
    return [start + i / fps for i in range(count)]


def joined(path, *parts):
    """The bytes of files one after the other, as ``cat`` joins them."""
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    return path


def jumping(folder):
    """Files of pictures 0 to 59, 25 a second, whose clocks jump, by name: (path, how often)."""

    def part(name, first, count, start=0.0, **options):
        return write(folder / "parts" / name, constant(count, start), first, **options)

    mpeg2 = {"codec": "mpeg2video", "bframes": 2}
    halves = [part(f"{first}.ts", first, 30) for first in (0, 30)]
    reordered = [part(f"{first}b.ts", first, 30, bframes=2) for first in (0, 30)]
    quarters = [part(f"{first}q.ts", first, 15, bframes=2) for first in (0, 15, 30, 45)]
    eighths = [part(f"{first}e.ts", first, 6) for first in range(0, 60, 6)]
    program = [part(f"{first}.mpg", first, 30, **mpeg2) for first in (0, 30)]
    dvd = [part(f"{first}.vob", first, 30, **mpeg2) for first in (0, 30)]
    matroska = [part(f"{first}.mkv", first, 30, bframes=2) for first in (0, 30)]
    set_back = [part("0s.ts", 0, 30, 2.0), part("30s.ts", 30, 30, 2.0 + 30 / 25 - 0.58)]
    within_group = [part(f"{first}w.ts", 0, 60, keyint=250) for first in (0, 30)]
    within_group = [
        _packets(within_group[0], folder / "parts/0g.ts", range(30), 0.0),
        _packets(within_group[1], folder / "parts/30g.ts", range(30, 60), -0.3),
    ]
    # sorted by time the last part is in the middle, so keyframes have other positions than in the file
    into_pause = [part(f"{n}p.mpg", n, 20, start, **mpeg2) for n, start in ((0, 0.0), (20, 90.0), (40, 20 / 25))]
    files = {
        "two_parts": (joined(folder / "two_parts.ts", *halves), 1),
        "two_parts_with_b_frames": (joined(folder / "two_parts_with_b_frames.ts", *reordered), 1),
        "four_parts": (joined(folder / "four_parts.ts", *quarters), 3),
        "ten_short_parts": (joined(folder / "ten_short_parts.ts", *eighths), 9),
        "two_mpg": (joined(folder / "two_mpg.mpg", *program), 1),
        "two_mkv": (joined(folder / "two_mkv.mkv", *matroska), 1),
        "two_vob": (joined(folder / "two_vob.vob", *dvd), 1),
        "set_back": (joined(folder / "set_back.ts", *set_back), 1),
        "set_back_within_a_group": (joined(folder / "set_back_within_a_group.ts", *within_group), 1),
        "back_into_a_pause": (joined(folder / "back_into_a_pause.mpg", *into_pause), 2),
    }
    for seconds in (5, 40, 90, 3600):
        times = [*constant(30), *constant(30, 29 / 25 + seconds)]
        files[f"pause_{seconds}"] = (write(folder / f"pause_{seconds}.mkv", times, bframes=2), 1)
    return files


def _packets(source, path, chosen, later):
    """Copy the chosen packets of a file, with times that are later by so many seconds."""
    with av.open(str(source)) as old, av.open(str(path), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size and number in chosen:
                packet.pts, packet.dts = (time + round(later / packet.time_base) for time in (packet.pts, packet.dts))
                packet.stream = stream
                new.mux(packet)
    return path


def edited(folder):
    """mp4 files with edit lists, by name: (path, the numbers of the frames that they show, when the first is shown)."""
    files = {}
    for kind, bframes in (("", 0), ("_b", 2)):
        source = write(folder / f"parts/source{kind}.mp4", constant(60), bframes=bframes)
        for name, edits, expected, start in (
            ("trimmed", [(1.2, 0.6)], range(15, 45), 0.0),
            ("end_trimmed", [(0.88, 0.0)], range(22), 0.0),
            ("cut_out", [(0.4, 0.2), (0.6, 1.24)], [*range(5, 15), *range(31, 46)], 0.0),
            ("delayed", [(1.0, None), (0.8, 0.2)], range(5, 25), 1.0),
            ("twice", [(0.4, 0.2), (0.4, 0.2)], [*range(5, 15)] * 2, 0.0),
        ):
            path = with_edit_list(source, folder / f"{name}{kind}.mp4", edits)
            files[f"{name}{kind}"] = (path, list(expected), start)
    return files


def phone(folder):
    """Pictures 0 to 99 at 25, 5, and 25 a second, of which an edit list shows those from 1.5 s on; in mp4."""
    times = [*constant(40), *constant(30, 1.6, fps=5), *constant(30, 7.6)]
    return with_edit_list(write(folder / "parts/phone.mp4", times, keyint=250), folder / "phone.mp4", [(7.3, 1.52)])


def with_edit_list(source, path, edits):
    """Copy an mp4 whose index is at its end, with another edit list for its only stream.

    edits: (duration in seconds, first media time in seconds, or None for a delay in which nothing is shown).
    """
    data = bytearray(source.read_bytes())
    movie_scale, media_scale = (_timescale(data, kind) for kind in (b"mvhd", b"mdhd"))
    media_start = struct.unpack_from(">i", data, data.index(b"elst") + 16)[0] if b"elst" in data else 0
    entries = b""
    for length, start in edits:
        media_time = -1 if start is None else media_start + round(start * media_scale)
        entries += struct.pack(">IiI", round(length * movie_scale), media_time, 1 << 16)
    new = struct.pack(">I4sII", 16 + len(entries), b"elst", 0, len(edits)) + entries
    old = data.index(b"elst") - 4
    grown = len(new) - struct.unpack_from(">I", data, old)[0]
    data[old : old + struct.unpack_from(">I", data, old)[0]] = new
    for kind in (b"moov", b"trak", b"edts"):
        at = data.index(kind) - 4
        struct.pack_into(">I", data, at, struct.unpack_from(">I", data, at)[0] + grown)
    path.write_bytes(data)
    return path


def _timescale(data, kind):
    return struct.unpack_from(">I", data, data.index(kind) + 4 + 12)[0]  # behind version, created and modified
