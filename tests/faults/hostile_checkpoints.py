"""The drill of checkpoints that are damaged or come from a stranger; ``checkpoints.py`` has damages while training.

    python -m tests.faults.hostile_checkpoints --damages 200

changes the newest checkpoint of a tiny run, a file or a folder of shards, in many ways: wrong types and numbers, other
objects, headers that lie, junk, random damage. The run must resume from the one before it: with one line and without a
traceback, in time, in little memory, with all files as they were, and without running anything that a file holds. Then
it asks for the best checkpoint of hostile ``best.json``.
"""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import pathlib
import pickle
import random
import shutil
import struct
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from fvcore.common.config import CfgNode
from torch import nn

from tests.faults.limits import HungError, limited, wants_memory
from tests.faults.verdict import failed, run_with_damages
from videofib.checkpoint.best import RECORD
from videofib.checkpoint.file import CheckpointError, Position, TrainingState, load_checkpoint
from videofib.checkpoint.manager import CheckpointManager, best_checkpoint, latest_checkpoint
from videofib.checkpoint.sharded import CONTENT, map_tensors
from videofib.distributed.fsdp import shard
from videofib.models.pretrained.weight_files import read_weights

SECONDS, MEMORY = 20, 1 << 30
Change = Callable[[Path], object]

NUMBERS = ["abc", None, -1, 10**30, -(10**30), math.nan, math.inf, True, 2.5, [], {}, torch.tensor(3), "\x1b[2J"]
DEEP = "[" * 100_000 + "]" * 100_000
WEIGHT = "model_state.0.weight"


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, owned: Path):
        self.owned = owned

    def __reduce__(self):
        return os.mkdir, (str(self.owned),)


def content(path: Path) -> Path:
    """The file of a checkpoint that torch.save wrote."""
    return path / CONTENT if path.is_dir() else path


def entry(name: str, value: object) -> Change:
    def change(path: Path) -> None:
        torch.save({**torch.load(content(path), weights_only=True), name: value}, content(path))

    return change


def of_weights(value: object) -> Change:
    def change(path: Path) -> None:
        found = torch.load(content(path), weights_only=True)
        found["model_state"]["0.weight"] = value
        torch.save(found, content(path))

    return change


def code(path: Path) -> None:
    entry("config", Code(path.parent / "owned"))(path)


def raw(make: Callable[[bytes], bytes]) -> Change:
    return lambda path: content(path).write_bytes(make(content(path).read_bytes()))


def shard_file(make: Callable[[bytes], bytes], *, signed: bool) -> Change:
    """Change a file of shards; ``signed``: its checksum is changed, too, as a stranger would."""

    def change(path: Path) -> None:
        file = next(path.glob("*.safetensors"))
        file.write_bytes(make(file.read_bytes()))
        if signed:
            entry("files", {file.name: zlib.crc32(file.read_bytes())})(path)

    return change


def header(make: Callable[[dict], object]) -> Change:
    """Change the header of a file of shards, of which ``make`` gets the offsets of tensors."""

    def rewrite(data: bytes) -> bytes:
        (length,) = struct.unpack("<Q", data[:8])
        head = json.loads(data[8 : 8 + length])
        offsets = json.loads(head["__metadata__"]["DCP_SHARDING_INFO"])
        made = make(offsets)
        head["__metadata__"]["DCP_SHARDING_INFO"] = made if isinstance(made, str) else json.dumps(offsets)
        text = json.dumps(head).encode()
        return struct.pack("<Q", len(text)) + text + data[8 + length :]

    return shard_file(rewrite, signed=True)


def offsets(value: object) -> Change:
    return header(lambda found: found[WEIGHT].update(saved_offsets=value))


def damage(seed: int, data: bytes) -> bytes:
    """Cut the bytes off, flip a bit, or put zeros over some."""
    rng = random.Random(seed)
    at = rng.randrange(len(data))
    cut, flip = data[:at], bytes([data[at] ^ 1 << rng.randrange(8)])
    return rng.choice([cut, cut + flip + data[at + 1 :], (cut + bytes(64) + data[at + 64 :])[: len(data)]])


OF_BOTH: dict[str, Change] = {
    **{f"{name} {str(value)[:12]!r}": entry(name, value) for name in ("epoch", "step") for value in NUMBERS},
    **{f"{name} None": entry(name, None) for name in ("model_state", "optimizer_state", "states", "config")},
    "code": code,
    "a path": entry("config", pathlib.PosixPath("/etc/passwd")),
    "a CfgNode": entry("config", CfgNode({"MODEL": CfgNode({"NAME": "x"})})),
    "a numpy scalar": entry("epoch", np.int64(2)),
    "a numpy array": entry("model_state", {"0.weight": np.ones((3, 4))}),
    "no tensor": of_weights("x"),
    "empty": raw(lambda data: b""),
    "a web page": raw(lambda data: b"<!DOCTYPE html><html>"),
    "a text": raw(lambda data: b"\x1b[2J not a checkpoint\n"),
    "a pickle": raw(lambda data: pickle.dumps({"epoch": 2})),
    "noise": raw(lambda data: random.Random(0).randbytes(4096)),
}
OF_FILES: dict[str, Change] = {"a huge tensor": of_weights(torch.zeros(1).expand(10**9, 4).to("meta"))}
OF_FOLDERS: dict[str, Change] = {
    **{f"files {value!r}": entry("files", value) for value in (None, [], "x", {}, {"../a.safetensors": 0}, {1: 2})},
    "a header of 2^63 bytes": shard_file(lambda data: struct.pack("<Q", 2**63) + data[8:], signed=True),
    "nested": header(lambda found: DEEP),
    "offsets of nothing": header(lambda found: "{}"),
    "offsets that are no JSON": header(lambda found: "\x1b[2J"),
    "offsets of 5,000 digits": header(lambda found: f'{{"{WEIGHT}": {"9" * 5000}}}'),
    **{f"offsets {str(v)[:20]!r}": offsets(v) for v in ("x", None, [-1, 0], [1, 0], [10**15, 0], [2**70, 0], [0.5, 0])},
    "a huge tensor": of_weights(torch.empty(10**13, 4, device="meta")),
    "a large tensor": of_weights(torch.empty(10**6, 10**3, device="meta")),
    "another shape": of_weights(torch.empty(7, 4, device="meta")),
    "an unknown tensor": entry("ema_state", {"more": torch.empty(2, device="meta")}),
}


def damages(count: int) -> dict[str, Change]:
    """Random damage to what torch.save wrote."""
    return {f"damage {seed}": raw(partial(damage, seed)) for seed in range(count)}


def damages_of_shards(count: int) -> dict[str, Change]:
    """Random damage to a file of shards; of a stranger's, whose checksum is right, it is within the header."""
    flips = {f"damaged shards {seed}": shard_file(partial(damage, seed), signed=False) for seed in range(count)}
    cut = {
        f"damage, signed {n}": shard_file(lambda data, n=n: damage(n, data[:600]), signed=True) for n in range(count)
    }
    return flips | cut


RECORDS = [
    *("", "[]", "{}", DEEP, '{"best": ["x"]}', f'{{"best": {"9" * 5000}}}', "\x1b[2J", '{"best": 1e400, "epochs": 3}'),
    *(json.dumps({"metric": "top1_acc", "best": best, "epochs": []}) for best in ("../a.pyth", "\x1b[2J", 7, [None])),
    *(
        json.dumps({"metric": "top1_acc", "best": None, "epochs": [{"epoch": n, "figure": n, "only_as_best": n}]})
        for n in ("abc", None, -1, 10**30, 10**400, math.nan, math.inf, [], {}, True)
    ),
]


def manager(folder: Path, *, sharded: bool) -> CheckpointManager:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    if sharded:
        shard(model)
    state = TrainingState(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return CheckpointManager(folder, state, metric="top1_acc", sharded=sharded)


def digests(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def drill(out: Path, count: int) -> dict:
    """Try all of it, and so many random damages of each kind; returns what was found."""
    problems: list[str] = []
    tried = 0
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        for sharded, changes in (
            (False, OF_BOTH | OF_FILES | damages(count)),
            (True, OF_BOTH | OF_FOLDERS | damages(count) | damages_of_shards(count)),
        ):
            intact = out / f"intact {sharded}"
            for epoch in (1, 2):
                manager(intact, sharded=sharded).save(Position(epoch))
            tried += len(changes)
            for name, change in changes.items():
                folder = out / "changed"
                shutil.copytree(intact, folder)
                change(max(folder.iterdir()))
                if not name.startswith("damage") or not _same(max(folder.iterdir()), max(intact.iterdir())):
                    problems += [f"{'folder' if sharded else 'file'} with {name}: {said}" for said in _newest(folder)]
                shutil.rmtree(folder)
        for text in RECORDS:
            (intact / RECORD).write_text(text)
            problems += [f"{RECORD} {text[:60]!r}: {said}" for said in _record(intact)]
    finally:
        dist.destroy_process_group()
    problems += _foreign(out)
    return {
        "tried": tried + len(RECORDS) + 1,
        "problems": len(problems),
        "examples": problems[:20],
    }


def _same(damaged: Path, intact: Path) -> bool:
    """Whether what was damaged makes no difference, as bytes between the tensors do not."""
    try:
        one, other = (
            pickle.dumps(map_tensors(load_checkpoint(path), lambda tensor, _: tensor.tolist()))
            for path in (damaged, intact)
        )
    except Exception:  # of any kind: how it is refused is looked at then
        return False
    return one == other


def _newest(folder: Path) -> list[str]:
    """What is wrong with how the newest checkpoint of a folder is refused and the one before it resumed."""
    before, newest = digests(folder), max(folder.iterdir())
    problems = _line(lambda: load_checkpoint(newest))
    try:
        with limited(SECONDS):
            found = latest_checkpoint(folder)
            resumed = manager(folder, sharded=newest.is_dir()).resume()
        if {found[1]["epoch"], resumed.position.epoch} != {1}:
            problems.append(f"resumed from {resumed.path.name}")
    except (Exception, HungError) as error:  # what the drill looks for
        problems.append(f"does not resume: {type(error).__name__} {error}"[:300])
    if digests(folder) != before:
        problems.append("files changed")
    if (folder / "owned").exists():
        problems.append("code was run")
    return problems


def _record(folder: Path) -> list[str]:
    problems = _line(lambda: best_checkpoint(folder))
    try:
        with limited(SECONDS, MEMORY):
            manager(folder, sharded=True).resume()
    except (Exception, HungError) as error:  # what the drill looks for
        problems.append(f"does not resume: {type(error).__name__} {error}"[:300])
    return problems


def _line(read: Callable[[], object]) -> list[str]:
    """What is wrong with how something is refused, which must be in one line."""
    printed = io.StringIO()
    try:
        with limited(SECONDS, MEMORY), contextlib.redirect_stderr(printed):
            read()
        return ["not refused"]
    except CheckpointError as error:
        said = str(error)
        if not said.isprintable() or len(said) > 1500:
            return [f"not one line: {said[:200]!r}"]
        if "Traceback" in printed.getvalue():
            return ["refused, but a traceback was printed, too"]
        return [f"wants memory: {said[-200:]}"] if wants_memory(said) else []
    except (Exception, HungError) as error:  # what the drill looks for
        return [f"{type(error).__name__}: {error}"[:300]]


def _foreign(out: Path) -> list[str]:
    """Weights beside objects of other classes, which others load."""
    beside = {"epoch": np.int64(3), "best": np.float32(0.5), "mean": np.ones(3), "out": pathlib.PosixPath("/data")}
    torch.save(
        beside | {"cfg": CfgNode({"A": 1}), "state_dict": {"head.weight": torch.ones(3, 2)}}, out / "foreign.pyth"
    )
    with limited(SECONDS, MEMORY):
        found = read_weights(out / "foreign.pyth").state
    return (
        []
        if found.keys() == {"head.weight"} and found["head.weight"].equal(torch.ones(3, 2))
        else [f"foreign weights: {found}"]
    )


def wrong(found: dict) -> list[str]:
    """What does not hold of what the drill has found."""
    return failed(found, true=("tried",), equal={"problems": 0})


if __name__ == "__main__":
    run_with_damages(drill, wrong, __doc__, 200, "kind")
