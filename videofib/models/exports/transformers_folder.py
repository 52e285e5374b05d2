"""Compares a folder for transformers with the model that it was written of, in a process without videofib."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors.torch import load_file, save_file
from torch import nn

from videofib.models.exports.program import BATCHES, Difference, ExportError, check, plain_copy, random_clips
from videofib.printable import printable

TOLERANCE = 1e-5
_SCRIPT = """
import sys
sys.modules["videofib"] = None  # an import of it fails
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForVideoClassification

folder, work = sys.argv[1:]
model = AutoModelForVideoClassification.from_pretrained(folder, trust_remote_code=True, dtype=torch.float32).eval()
with torch.no_grad():
    clips = load_file(work + "/clips")
    save_file({name: model(pixel_values=clip.transpose(1, 2)).logits for name, clip in clips.items()}, work + "/logits")
"""


def check_folder(model: nn.Module, folder: Path, clip: Sequence[int]) -> Difference:
    """How far transformers' logits are from the model's, with the code of the folder, which is run.

    Raises:
        ExportError: transformers cannot load the folder, or has other logits.
    """

    batches = {str(size): random_clips(size, clip) for size in BATCHES}
    with TemporaryDirectory(prefix="videofib-") as work:
        save_file(batches, Path(work, "clips"))
        # a cache of its own: the code of a folder is copied there, and nothing of it should stay
        env = os.environ | {"HF_HOME": work, "HF_MODULES_CACHE": work, "HF_HUB_OFFLINE": "1"}
        command = [sys.executable, "-I", "-c", _SCRIPT, str(folder.resolve()), work]
        done = subprocess.run(command, capture_output=True, text=True, env=env, stdin=subprocess.DEVNULL)
        if done.returncode:
            last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
            raise ExportError(f"transformers cannot load the exported model: {printable(last[0])}")
        logits = load_file(Path(work, "logits"))
    return check(plain_copy(model), lambda clips: logits[str(len(clips))], clip, TOLERANCE)
