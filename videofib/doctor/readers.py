"""Which readers return the frames that were written, of a small video that preparation's encoder writes.

Each runs in a process of its own (``reading``): decord and torchcodec load FFmpeg libraries that clash, and one that
ends the process shall cost no more than its line.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from videofib.doctor.finding import Finding, State, reason, unavailable

if TYPE_CHECKING:
    import numpy as np

READERS = {  # name -> whether videofib needs it
    "pyav in order": True,
    "pyav seeking": True,
    "decord in order": False,
    "decord seeking": False,
    "torchcodec": False,
}
INDICES = (0, 5, 13, 23)  # of frames that are read, in both groups of pictures
TOLERANCE = 4.0  # levels of 255, on average over a frame; two neighbouring frames differ by 6
NOT_INSTALLED = 3  # exit status of ``reading``
_NUM_FRAMES, _SIDE, _STEP = 24, 64, 9
_LONGEST = 120  # seconds that one reader may take


def readers() -> Iterator[Finding]:
    """Each reader, with how far its frames are from those written."""
    with tempfile.TemporaryDirectory(prefix="videofib_doctor_") as folder:
        video = Path(folder) / "video.mp4"
        try:
            from videofib.prep.encode import write_video

            write_video(video, written(), fps=25)
        except Exception as error:
            yield unavailable("encoder libx264", f"writes no video: {reason(error)}", needed=True)
            return
        yield Finding(State.WORKS, "encoder libx264", f"{_NUM_FRAMES} frames, {video.stat().st_size:,} bytes")
        for name, needed in READERS.items():
            yield checked(name, video, needed)


def written() -> np.ndarray:
    """Frames (24, 64, 64, 3) uint8 RGB, which get redder and less blue with time, and are brighter on the right."""
    import numpy as np

    frames = np.zeros((_NUM_FRAMES, _SIDE, _SIDE, 3), np.uint8)
    steps = np.arange(_NUM_FRAMES, dtype=np.uint8)[:, None, None] * _STEP
    frames[..., 0] = 20 + steps
    frames[..., 1] = np.linspace(60, 190, _SIDE).astype(np.uint8)
    frames[..., 2] = 235 - steps
    return frames


def checked(name: str, video: Path, needed: bool) -> Finding:
    """One reader, reading the frames at ``INDICES`` of a video of ``written()``."""
    import numpy as np

    part, target = f"reader {name}", video.with_name(f"{name}.npy")
    words = [sys.executable, "-m", "videofib.doctor.reading", name, str(video), str(target)]
    root = Path(__file__).parents[2]  # so that it imports this package, wherever it lies
    try:
        done = subprocess.run(
            words,
            cwd=root,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_LONGEST,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return unavailable(part, reason(error), needed=needed)
    if done.returncode:
        return unavailable(part, _why(done), needed=needed)
    frames, expected = np.load(target, allow_pickle=False), written()[list(INDICES)]
    if frames.shape != expected.shape:
        return Finding(State.FAILED, part, f"returns frames of shape {frames.shape}, not {expected.shape}")
    largest = np.abs(frames.astype(np.float64) - expected).mean(axis=(1, 2, 3)).max()
    text = f"{len(INDICES)} frames, {largest:.1f} of 255 levels from those written (at most {TOLERANCE})"
    return Finding(State.WORKS, part, text) if largest <= TOLERANCE else Finding(State.FAILED, part, f"wrong: {text}")


def _why(done: subprocess.CompletedProcess) -> str:
    """Why ``reading`` has ended without frames."""
    if done.returncode < 0:
        return f"ends the process: {signal.strsignal(-done.returncode)}"
    lines = done.stderr.strip().splitlines() or [f"ends the process: exit status {done.returncode}"]
    return lines[-1] if done.returncode != NOT_INSTALLED else f"not available: {lines[-1]}"
