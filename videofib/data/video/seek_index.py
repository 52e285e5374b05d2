"""Where decoding may start in a video: pure arithmetic on the times of its stored packets, no decoding.

A file stores packets in the order in which they are decoded; each states when its frame is shown and whether it is a
keyframe (k), at which decoding may start. A video with one open and one closed group of pictures::

    packet     0    1    2    3  |  4    5    6    7  |  8    9
    shown at   0    3    1    2  |  6    4    5    7  |  8    9
    keyframe   k                 |  k                 |  k
    frame      0    3    1    2  |  6    4    5    7  |  8    9        the rank of its time

    entry      packet 0          |  packet 4          |  packet 8
               = frame 0         |  = frame 6         |  = frame 8

Frame 7 is reached from packet 4, frames 4 and 5 only from packet 0: they are stored behind the keyframe that is shown
after them, and refer to the group before (decoded from packet 4 on, they come out broken or not at all).
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from videofib.data.video.clock import REORDERED, Stored, presentation_order


@dataclass(frozen=True)
class SeekIndex:
    """The times of a video's frames, and its entries: the keyframes at which decoding may start.

    Attributes:
        times: when each frame is shown, ascending; frame i is the one shown at ``times[i]``.
        entry_frames, entry_packets: of each entry, ascending, the frame that comes out first, and its packet. The first
            entry is the video's start.
        entry_decoded: when the packet of each entry is decoded; when it is shown, where that is unknown.
        packet_times, packet_sizes: of each packet in stored order: when it is shown, and its bytes. By these it is
            recognised after a seek in the container.
    """

    times: array[int]
    entry_frames: array[int]
    entry_packets: array[int]
    entry_decoded: array[int]
    packet_times: array[int]
    packet_sizes: array[int]

    def entry(self, frame: int) -> tuple[int, int]:
        """(packet, frame) of the last entry that is not behind ``frame``."""
        number = bisect_right(self.entry_frames, frame) - 1
        return self.entry_packets[number], self.entry_frames[number]

    def ticks(self, entry_packet: int) -> tuple[int, int]:
        """When the packet of an entry is shown, and when it is decoded."""
        return self.packet_times[entry_packet], self.entry_decoded[bisect_right(self.entry_packets, entry_packet) - 1]

    def number(self, time: int | None, size: int) -> int | None:
        """The packet of this time and size; None where there is no such packet, or several."""
        if time is None:
            return None
        same = (np.frombuffer(self.packet_times, np.int64) == time) & (
            np.frombuffer(self.packet_sizes, np.int64) == size
        )
        found = np.flatnonzero(same)
        return int(found[0]) if len(found) == 1 else None

    def bytes_between(self, first: int, last: int) -> int:
        """Bytes of the packets from ``first`` up to, but without, ``last``."""
        return int(np.frombuffer(self.packet_sizes, np.int64)[first:last].sum())


def build(packets: Sequence[Stored], reordered: int = REORDERED) -> SeekIndex | None:
    """The index of a video from its packets in stored order; None where their times do not number its frames.

    They do not where a time is unknown or occurs twice, where the clock goes back, and where the video begins with
    frames that cannot be decoded and that reading in order skips: those before the first keyframe, or shown before it.

    reordered: how many frames its decoder holds back at most; see ``clock.presentation_order``.
    """
    shown = [packet.time for packet in packets if packet.is_shown]
    if not shown or any(packet.time is None for packet in packets) or not packets[0].is_key:
        return None
    times = presentation_order(packets, reordered)
    if any(a >= b for a, b in pairwise(times)) or times[0] < packets[0].time:
        return None
    frame_at = {time: frame for frame, time in enumerate(times)}
    entry_frames, entry_packets, latest = [0], [0], packets[0].time
    for number, (time, is_key, is_shown, _, _) in enumerate(packets):
        if is_key and is_shown and time > latest:  # so all packets before it are shown before it
            entry_frames.append(frame_at[time])
            entry_packets.append(number)
        elif is_shown and time < times[entry_frames[-1]] < latest:
            return None  # shown before the entry, yet stored behind a frame shown after it: the clock goes back
        latest = max(latest, time)
    decoded = [p.time if p.decoded is None else p.decoded for p in (packets[number] for number in entry_packets)]
    sizes = (packet.size for packet in packets)
    stored_times = (packet.time for packet in packets)
    columns = (times, entry_frames, entry_packets, decoded, stored_times, sizes)
    return SeekIndex(*(array("q", column) for column in columns))
