"""Surveys as bytes of a file: plain numbers, every one of which is checked when they are read back.

magic | SHA-256 of all that follows | bytes of the header | header: JSON | arrays of 8-byte numbers
"""

from __future__ import annotations

import hashlib
import json
import math
import struct
from array import array
from dataclasses import asdict
from itertools import pairwise

import numpy as np

from videofib.data.video.clock import Clock
from videofib.data.video.seek_index import SeekIndex
from videofib.data.video.survey import Estimate, Survey

_MAGIC = b"videofib packets 1\n"
_LENGTH = struct.Struct("<I")
_MOST_HEADER_BYTES = 1 << 16
_COLUMNS = ("times", "entry_frames", "entry_packets", "entry_decoded", "packet_times", "packet_sizes")


def pack(survey: Survey, key: list) -> bytes:
    """A survey of the file that ``key``, a list of texts and numbers, describes."""
    columns = [getattr(survey.index, name) for name in _COLUMNS] if survey.index else []
    estimate = None
    if survey.estimate:
        estimate = asdict(survey.estimate)
        columns.append(array("d", estimate.pop("times")))
    header = {"key": key, "stated": survey.stated, "has_index": survey.index is not None, "estimate": estimate}
    text = json.dumps({**header, "lengths": [len(column) for column in columns]}).encode()
    body = b"".join([_LENGTH.pack(len(text)), text, *(column.tobytes() for column in columns)])
    return _MAGIC + hashlib.sha256(body).digest() + body


def unpack(data: bytes, key: list) -> Survey | None:
    """The survey of the file that ``key`` describes; None where these bytes are not one, whatever they are."""
    body = memoryview(data)[len(_MAGIC) + 32 :]
    if not data.startswith(_MAGIC) or data[len(_MAGIC) : len(_MAGIC) + 32] != hashlib.sha256(body).digest():
        return None
    try:
        return _unpacked(body, key)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, RecursionError, struct.error):
        return None


def _unpacked(body: memoryview, key: list) -> Survey | None:
    (length,) = _LENGTH.unpack_from(body)
    start = _LENGTH.size + length
    if length > _MOST_HEADER_BYTES:
        return None
    header = json.loads(bytes(body[_LENGTH.size : start]))
    has_index, stated, estimate = header["has_index"] is True, header["stated"], header["estimate"]
    lengths = header["lengths"]
    if header["key"] != key or not isinstance(stated, str) or any(type(n) is not int or n < 0 for n in lengths):
        return None
    kinds = "q" * len(_COLUMNS) * has_index + "d" * (estimate is not None)
    if len(lengths) != len(kinds) or start + 8 * sum(lengths) != len(body):
        return None
    columns = []
    for kind, count in zip(kinds, lengths, strict=True):
        columns.append(array(kind, bytes(body[start : start + 8 * count])))
        start += 8 * count
    index = SeekIndex(*columns[: len(_COLUMNS)]) if has_index else None
    if index and not _is_sound(*(np.frombuffer(column, np.int64) for column in columns[: len(_COLUMNS)])):
        return None
    return Survey(stated, index, None if estimate is None else _estimate(estimate, columns[-1]))


def _is_sound(
    times: np.ndarray,
    frames: np.ndarray,
    packets: np.ndarray,
    decoded: np.ndarray,
    stored: np.ndarray,
    sizes: np.ndarray,
) -> bool:
    """Whether columns of an index fit each other."""
    return bool(
        0 < len(times) <= len(stored) == len(sizes)
        and 0 < len(frames) == len(packets) == len(decoded)
        and (times[1:] > times[:-1]).all()
        and all(part[0] == 0 and (part[1:] > part[:-1]).all() for part in (frames, packets))
        and frames[-1] < len(times)
        and packets[-1] < len(stored)
        and (times[frames[1:]] == stored[packets[1:]]).all()
        and (sizes > 0).all()
        and np.isin(times, stored).all()
    )


def _estimate(facts: dict, shown: array) -> Estimate:
    clock = Clock(**facts.pop("clock"))
    estimate = Estimate(**facts, times=tuple(shown), clock=clock)
    numbers = (estimate.fps, clock.step, clock.longest, clock.furthest_back)
    counts = (estimate.num_frames, clock.jumps)
    flags = (estimate.states_decoding_times, estimate.clock_goes_back)
    if not all(type(number) is float and number >= 0 for number in numbers) or not 0 < estimate.fps < math.inf:
        raise ValueError("not a rate or a time")
    if not all(type(count) is int and count >= 0 for count in counts) or not estimate.num_frames:
        raise ValueError("not a count")
    if not all(type(flag) is bool for flag in flags) or len(shown) not in (0, estimate.num_frames):
        raise ValueError("not a flag, or times of other frames")
    if not np.isfinite(shown).all() or any(a > b for a, b in pairwise(shown)):
        raise ValueError("times do not ascend")
    return estimate
