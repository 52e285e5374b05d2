"""Videos whose marks say how to show them (display matrices, pixel aspects), and the frames that are right for them."""

import struct
from collections.abc import Iterable
from pathlib import Path

import av
import numpy as np
from av.bitstream import BitStreamFilterContext

from videofib.prep.encode import write_video

COUNT = 30
HEIGHT, WIDTH = 72, 96

# Entries (a, b, c, d) of a display matrix, x' = a x + c y and y' = b x + d y with y down, and the same with numpy on
# frames (T, H, W, C).
ORIENTATIONS = {
    "as stored": ((1, 0, 0, 1), lambda frames: frames),
    "turned right": ((0, 1, -1, 0), lambda frames: np.rot90(frames, -1, (1, 2))),
    "upside down": ((-1, 0, 0, -1), lambda frames: frames[:, ::-1, ::-1]),
    "turned left": ((0, -1, 1, 0), lambda frames: np.rot90(frames, 1, (1, 2))),
    "left and right swapped": ((-1, 0, 0, 1), lambda frames: frames[:, :, ::-1]),
    "top and bottom swapped": ((1, 0, 0, -1), lambda frames: frames[:, ::-1]),
    "transposed": ((0, 1, 1, 0), lambda frames: frames.swapaxes(1, 2)),
    "transposed the other way": ((0, -1, -1, 0), lambda frames: frames[:, ::-1, ::-1].swapaxes(1, 2)),
}

# name of a mark -> (turns and mirrors the stored frames (T, H, W, C), pixel aspect, width of a frame of 96 pixels)
MARKS = {
    **{name: (name, "", 96) for name in ORIENTATIONS},
    "wide pixels": ("as stored", "64/45", 136),
    "narrow pixels": ("as stored", "8/9", 85),
    "wide and turned": ("turned right", "16/11", 139),
    "wide, turned and mirrored": ("transposed", "64/45", 136),
}


def write_plain(path: Path, height: int = HEIGHT, width: int = WIDTH, count: int = COUNT) -> Path:
    """A video without marks: soft coloured texture without any symmetry, which drifts; no frame equals another."""
    coarse = np.random.default_rng(5).integers(0, 256, (8 + count // 8, 12, 3), np.uint8)
    texture = av.VideoFrame.from_ndarray(coarse).reformat(width, height + 2 * count, format="rgb24").to_ndarray()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_video(path, [texture[2 * t : 2 * t + height] for t in range(count)], 25)
    return path


def with_matrix(source: Path, target: Path, matrix: tuple[float, float, float, float]) -> Path:
    """A copy of an mp4 file with the entries (a, b, c, d) in the display matrix of its track."""
    a, b, c, d = (round(entry * 0x10000) for entry in matrix)
    content = bytearray(source.read_bytes())
    box = content.index(b"tkhd")
    start = box + (56 if content[box + 4] else 44)  # the version, and so the size of the fields in front of the matrix
    struct.pack_into(">9i", content, start, a, b, 0, c, d, 0, 0, 0, 0x40000000)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def with_orientation_message(source: Path, target: Path, packets: Iterable[int]) -> Path:
    """A copy of an H.264 file that states in these packets, not in its container, that frames are transposed."""
    transposed = bytes.fromhex("062f0348000980")  # SEI 47, display orientation: swap left and right, a quarter turn
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        stream = new.add_stream_from_template(old.streams.video[0])
        for number, packet in enumerate(old.demux(video=0)):
            if packet.size:
                longer = av.Packet(
                    (struct.pack(">I", len(transposed)) + transposed) * (number in packets) + bytes(packet)
                )
                longer.pts, longer.dts, longer.time_base = packet.pts, packet.dts, packet.time_base
                longer.duration, longer.is_keyframe, longer.stream = packet.duration, packet.is_keyframe, stream
                new.mux(longer)
    return target


def with_pixel_aspect(source: Path, target: Path, codec: str, container: str = "") -> Path:
    """A copy whose codec and container state pixel aspects, such as ``64/45``; the container by default none."""
    target.parent.mkdir(parents=True, exist_ok=True)
    _with_codec_aspect(source, target, codec)
    if container:
        marked = target.rename(target.with_suffix(".codec.mp4"))  # the container states it in the copy of this one
        _with_codec_aspect(marked, target, codec)
        marked.unlink()
        content = bytearray(target.read_bytes())
        struct.pack_into(">2I", content, content.index(b"pasp") + 4, *map(int, container.split("/")))
        target.write_bytes(content)
    return target


def _with_codec_aspect(source: Path, target: Path, aspect: str) -> None:
    with av.open(str(source)) as old, av.open(str(target), "w") as new:
        before = old.streams.video[0]
        stream = new.add_stream_from_template(before)
        change = BitStreamFilterContext(f"h264_metadata=sample_aspect_ratio={aspect}", before, stream)
        for packet in old.demux(before):
            if packet.size:
                for changed in change.filter(packet):
                    changed.stream = stream
                    new.mux(changed)


def plain_frames(path: Path) -> np.ndarray:
    """The stored frames (T, H, W, 3), whatever marks the file has."""
    with av.open(str(path)) as container:
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def scaled_by_filter(path: Path, size: str) -> np.ndarray:
    """The stored frames (T, H, W, 3) as FFmpeg's filter ``scale`` makes them of a size, such as ``128:72``.

    With the position of chroma samples that H.264 has where it states none.
    """
    with av.open(str(path)) as container:
        graph = av.filter.Graph()
        nodes = [
            graph.add_buffer(template=container.streams.video[0]),
            graph.add("scale", f"{size}:flags=bicubic+full_chroma_int:in_h_chr_pos=0:in_v_chr_pos=128"),
            graph.add("format", "rgb24"),
            graph.add("buffersink"),
        ]
        graph.link_nodes(*nodes).configure()
        frames = []
        for frame in container.decode(video=0):
            graph.push(frame)
            frames.append(graph.pull().to_ndarray(format="rgb24"))
        return np.stack(frames)


def marked(path: Path, folder: Path, mark: str, *, even: bool = False) -> tuple[Path, np.ndarray]:
    """A copy of a video with the mark, and the frames (T, H, W, C) that it shows; ``even``: of an even size."""
    orientation, aspect, width = MARKS[mark]
    width -= width % 2 if even else 0
    frames = plain_frames(path)
    if aspect:
        path = with_pixel_aspect(path, folder / "wide.mp4", aspect, aspect)
        frames = scaled_by_filter(path, f"{width}:{frames.shape[1]}")
    entries, turned = ORIENTATIONS[orientation]
    return with_matrix(path, folder / "raw/c/marked.mp4", entries), turned(frames)
