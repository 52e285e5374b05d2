"""Videos -> the clips that videofib gives the model, for ``transformers``: one view, the clip and crop of its tests.

Frames are chosen, decoded, turned upright, scaled, cropped and normalised as videofib does with one temporal view and
one crop: the pixels are equal. Axes: T frames, H W image.
"""

from typing import Any

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.sidedata.sidedata import Type as SideData
from transformers.image_processing_utils import BatchFeature
from transformers.video_processing_utils import BaseVideoProcessor

from .clock import REORDERED, Stored, average_fps, presentation_order, without_jumps
from .display import read_display
from .rgb import ToRGB
from .sampling import (
    clip_indices,
    clip_length,
    frames_shown_at,
    is_uneven,
    limited_size,
    short_side_size,
    view_crop,
    view_segment_indices,
    view_start,
)

_FALLBACK_FPS = 25.0
_REORDERING = ("h264", "hevc")


class VideofibVideoProcessor(BaseVideoProcessor):
    """Videos, files or frames, -> ``pixel_values`` (B, T, C, H, W).

    Its settings are in ``preprocessor_config.json``: ``num_frames``, ``sampling`` (``dense`` or ``uniform``),
    ``sampling_rate``, ``target_fps``, ``view_starts``, ``read_short_side``, ``size``, ``crop_size``, ``image_mean`` and
    ``image_std``, as videofib's config describes them.
    """

    model_input_names = ["pixel_values"]  # noqa: RUF012

    def __init__(self, **settings):
        super().__init__(**settings)
        self.settings = settings

    def preprocess(self, videos, num_frames=None, fps=None, do_sample_frames=True, return_tensors="pt") -> BatchFeature:
        """The clips of videos.

        Args:
            videos: a path or URL, frames (T, H, W, 3) as uint8, or a list of these.
            num_frames: of a clip; by default the model's.
            fps: of frames, frames a second; by default ``target_fps``.
            do_sample_frames: False: frames are the clip itself.
        """
        single = isinstance(videos, str) or getattr(videos, "ndim", 0) == 4
        count = num_frames or self.settings["num_frames"]
        clips = []
        for video in [videos] if single else videos:
            if isinstance(video, str):
                frames = self.read(video, count)
            else:
                frames = np.asarray(video)
                if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
                    raise ValueError(f"frames must be uint8 (T, H, W, 3), got {frames.dtype} {frames.shape}")
                if do_sample_frames:
                    frames = frames[self.indices(len(frames), fps or self.settings["target_fps"], count)]
            clips.append(self.transform(frames))
        return BatchFeature({"pixel_values": torch.stack(clips)}, tensor_type=return_tensors)

    def indices(self, length: int, fps: float, num_frames: int, times=()) -> list[int]:
        """The frames of the clip, of a video of ``length`` frames, shown at ``times`` where those are uneven."""
        given = self.settings
        if given["sampling"] == "uniform":
            clip = view_segment_indices(num_frames, length, 0, 1, given["view_starts"])
        else:
            span = clip_length(num_frames, given["sampling_rate"], given["target_fps"], fps)
            clip = clip_indices(view_start(length, span, 0, 1, given["view_starts"]), span, num_frames, length)
        return frames_shown_at(clip, times[:length]) if len(times) >= length else clip

    def read(self, video: str, num_frames: int) -> np.ndarray:
        """The frames of the clip of a file, (T, H, W, 3) uint8, upright and with square pixels."""
        length, fps, times = _stored(video)
        while True:
            clip = self.indices(length, fps, num_frames, times)
            found, decoded = _decoded(video, set(clip), self.settings["read_short_side"])
            if len(found) == len(set(clip)):
                return np.stack([found[index] for index in clip])
            if not 0 < decoded < length:
                raise ValueError(f"{video}: {decoded} frames decode, and the clip needs frame {max(clip)}")
            length = decoded  # of a damaged video: the clip is taken from what decodes

    def transform(self, frames: np.ndarray) -> torch.Tensor:
        """(T, H, W, 3) uint8 -> (T, C, size, size): scaled to the short side, the centre, normalised."""
        clip = torch.from_numpy(np.ascontiguousarray(frames)).permute(0, 3, 1, 2)
        size, (height, width) = self.settings["crop_size"]["height"], clip.shape[-2:]
        scaled = short_side_size(height, width, self.settings["size"]["shortest_edge"])
        if scaled != (height, width):
            clip = F.interpolate(clip, size=scaled, mode="bilinear", align_corners=False)
        top, left = view_crop(*scaled, size, 0, 1)
        mean, std = (torch.tensor(self.settings[name]).view(-1, 1, 1) for name in ("image_mean", "image_std"))
        return clip[..., top : top + size, left : left + size] * (1 / (255 * std)) - mean / std


def _stored(video: str) -> tuple[int, float, tuple[float, ...]]:
    """(frames, frames a second, when each is shown if at uneven times) of a file, as its packets state them."""
    with av.open(video, metadata_errors="replace") as container:
        stream: Any = container.streams.best("video")
        if stream is None:
            raise ValueError(f"{video}: no video stream")
        facts = [
            Stored(packet.pts, packet.is_keyframe, not packet.is_discard, packet.dts, packet.size)
            for packet in container.demux(stream)
            if packet.size
        ]
        reorders = stream.codec_context.has_b_frames or stream.codec_context.codec.canonical_name in _REORDERING
        tick, stated = float(stream.time_base), float(stream.average_rate or stream.guessed_rate or _FALLBACK_FPS)
    length = sum(fact.is_shown for fact in facts)
    if not length:
        raise ValueError(f"{video}: no frame is stored")
    _, times = without_jumps([ticks * tick for ticks in presentation_order(facts, REORDERED if reorders else 0)])
    return length, average_fps(stated, times), tuple(times) if len(times) == length and is_uneven(times) else ()


def _decoded(video: str, wanted: set[int], short_side: int) -> tuple[dict[int, np.ndarray], int]:
    """The wanted frames by their index, decoded in order, and how many frames have decoded."""
    found, count, convert, display = {}, 0, ToRGB(), None
    with av.open(video, metadata_errors="replace") as container:
        stream: Any = container.streams.best("video")
        stream.thread_type, stream.thread_count = "SLICE", 2  # as videofib, for damaged frames
        try:
            for frame in container.decode(stream):
                if display is None:
                    matrix = frame.side_data.get(SideData.DISPLAYMATRIX)
                    display = read_display(None if matrix is None else bytes(matrix), stream.sample_aspect_ratio)
                    size = limited_size(*display.shown_size(frame.height, frame.width), short_side)
                if count in wanted:
                    found[count] = display.upright(convert(frame, *display.turned(*size)))
                count += 1
                if count > max(wanted):
                    break
        except av.FFmpegError:
            pass  # a damaged video ends here
    return found, count
