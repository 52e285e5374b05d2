"""Checkpoints of other projects: their weights are read, and nothing else that they hold is made or run."""

import argparse
import collections
import contextlib
import datetime
import enum
import io
import json
import logging
import os
import pathlib
import pickle
import random
import re
import struct
import timeit
import zipfile

import numpy as np
import pytest
import torch
from fvcore.common.config import CfgNode
from torch import nn

from videofib.checkpoint.file import CheckpointError, load_checkpoint, read_tensors
from videofib.checkpoint.foreign import _FUNCTIONS
from videofib.models.pretrained.weight_files import read_weights


class Stage(enum.Enum):
    LAST = "last"


class Slotted:
    __slots__ = ("value",)

    def __init__(self):
        self.value = 3


class Lines(list):
    pass


class Entries(dict):
    pass


def weights():
    torch.manual_seed(0)
    shared = torch.randn(6, 4)
    return collections.OrderedDict(
        {
            "head.weight": shared[1:4].t(),
            "head.tied": shared,
            "norm.weight": nn.Parameter(torch.ones(4)),
            "half.weight": torch.ones(3, dtype=torch.bfloat16),
            "mask": torch.tensor([True, False]),
            "count": torch.tensor(7),
            "none": torch.zeros(0, 4),
        }
    )


BESIDE = {
    "numpy scalars": {"epoch": np.int64(3), "best": np.float32(0.5), "flag": np.bool_(True)},
    "numpy arrays": {"mean": np.array([0.45, 0.5]), "names": np.array(["a", "b"]), "any": np.array([{}], dtype=object)},
    "numpy random state": np.random.get_state(),
    "CfgNode": CfgNode({"MODEL": {"NAME": "x"}, "LR": 0.1}),
    "Namespace": argparse.Namespace(lr=0.1, out=pathlib.Path("out")),
    "path": pathlib.PurePosixPath("/data/kinetics"),
    "here": pathlib.Path("data"),
    "containers": [collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]), collections.Counter("aab")],
    "deque": collections.deque([1, 2], maxlen=3),
    "times": [datetime.datetime(2024, 1, 1), datetime.timedelta(1), datetime.date(2024, 1, 1)],
    "torch": [torch.Size([2, 3]), torch.float16, torch.device("cpu")],
    "enum": {Stage.LAST: {Stage.LAST}, "frozen": frozenset([1]), "complex": 1 + 2j, "bytes": b"\xff\x00"},
    "classes": [nn.ReLU, dict, len, random.Random(3), Slotted(), Lines([1]), Entries(a=1), range(3), slice(1, 2)],
}


def save(content, path, *, legacy):
    torch.save(content, path, _use_new_zipfile_serialization=not legacy)


@pytest.fixture
def heard(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("videofib"), "propagate", True)
    return caplog


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("beside", BESIDE)
def test_weights_are_read_whatever_stands_beside_them(tmp_path, legacy, beside):
    expected = weights()
    for number, content in enumerate(
        ({"state_dict": expected, "beside": BESIDE[beside]}, {"beside": BESIDE[beside], "state_dict": expected})
    ):
        save(content, tmp_path / f"{number}.pth", legacy=legacy)
        found = read_weights(tmp_path / f"{number}.pth").state
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            assert found[name].dtype == tensor.dtype
            assert torch.equal(found[name], tensor)
            assert found[name].stride() == tensor.stride()


@pytest.mark.parametrize("legacy", [False, True])
def test_numbers_paths_and_entries_are_kept(tmp_path, legacy):
    save({"state_dict": weights(), **BESIDE["numpy scalars"], **BESIDE}, tmp_path / "a.pth", legacy=legacy)
    found = read_tensors(tmp_path / "a.pth", of_others=True)
    assert (found["epoch"], found["best"], found["flag"]) == (3, 0.5, True)
    assert type(found["epoch"]) is int
    assert found["path"] == "/data/kinetics"
    assert dict(found["CfgNode"]) == {"MODEL": {"NAME": "x"}, "LR": 0.1} or found["CfgNode"]["LR"] == 0.1
    assert found["containers"][:2] == [{"a": 1}, {"a": [1]}]
    assert found["torch"][:3] == [torch.Size([2, 3]), torch.float16, "cpu"]
    assert read_weights(tmp_path / "a.pth").epoch == 3


def test_what_is_not_loaded_is_named_once(tmp_path, heard):
    torch.save({"state_dict": weights(), "a": Slotted(), "b": [Slotted()]}, tmp_path / "a.pth")
    read_weights(tmp_path / "a.pth")
    assert [record.getMessage() for record in heard.records] == [
        f"{tmp_path}/a.pth: objects of {__name__}.Slotted beside the tensors are not loaded"
    ]


@pytest.mark.parametrize(("kinds", "said"), [(5, ""), (7, " and 2 more")])
def test_of_what_is_not_loaded_five_classes_are_named(tmp_path, heard, kinds, said):
    objects = [nn.ReLU(), nn.GELU(), nn.Tanh(), nn.SiLU(), nn.ELU(), nn.Mish(), nn.CELU()][:kinds]
    torch.save({"state_dict": weights(), "activations": objects}, tmp_path / "a.pth")
    read_weights(tmp_path / "a.pth")
    (message,) = [record.getMessage() for record in heard.records]
    assert re.search(rf"objects of (\S+, ){{4}}[^\s,]+{said} beside the tensors", message)


def test_a_pickled_module_is_refused_by_name(tmp_path):
    for content in (nn.Linear(2, 3), {"model": nn.Linear(2, 3), "epoch": 3}):
        torch.save(content, tmp_path / "module.pth")
        with pytest.raises(CheckpointError, match=r"module\.pth .*torch\.nn\.modules\.linear\.Linear.*state_dict"):
            read_weights(tmp_path / "module.pth")


class Attack:
    """Runs a function when it is unpickled."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


POSITIONS = {
    "alone": lambda attack: attack,
    "first": lambda attack: {"a": attack, "state_dict": weights()},
    "last": lambda attack: {"state_dict": weights(), "z": attack},
    "key": lambda attack: {"state_dict": weights(), (attack,): 1},
    "among the weights": lambda attack: {"state_dict": {**weights(), "x.weight": attack}},
    "within another": lambda attack: {"state_dict": weights(), "z": argparse.Namespace(a=[attack])},
    "as an argument": lambda attack: {"state_dict": weights(), "z": Attack(collections.OrderedDict, [("a", attack)])},
}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
def test_no_function_of_a_file_is_ever_run(tmp_path, legacy, position):
    victim = tmp_path / "owned"
    touch = f"open({str(victim)!r}, 'w')"
    for function, *args in [
        (pathlib.Path.touch, victim),
        (io.FileIO, str(victim), "w"),
        (eval, touch),
        (exec, touch),
        (os.mkdir, str(victim)),
        (timeit.timeit, "pass", touch, timeit.default_timer, 1),
        (torch.save, [1], str(victim)),
        (np.save, str(victim), np.ones(1)),
        (torch.hub.download_url_to_file, f"file://{__file__}", str(victim)),
    ]:
        save(POSITIONS[position](Attack(function, *args)), tmp_path / "bad.pth", legacy=legacy)
        for read in (read_weights, load_checkpoint):
            with contextlib.suppress(CheckpointError):
                read(tmp_path / "bad.pth")
        assert not list(tmp_path.glob("owned*"))


def test_a_module_that_a_file_names_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "evil_module.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w')\nclass A: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save({"state_dict": weights()}, tmp_path / "bad.pth")
    stream = pickle.dumps({"state_dict": {}, "a": collections.deque()}, protocol=2)
    stream = stream.replace(b"ccollections\ndeque\n", b"cevil_module\nA\n")
    with zipfile.ZipFile(tmp_path / "bad.pth", "w") as archive:
        archive.writestr("bad/data.pkl", stream)
        archive.writestr("bad/version", "3\n")
    for of_others in (True, False):
        with contextlib.suppress(CheckpointError):
            read_tensors(tmp_path / "bad.pth", of_others=of_others)
    assert not (tmp_path / "owned").exists()


def test_a_hostile_file_changes_nothing_that_a_later_one_uses(tmp_path):
    """A pickle may set attributes of what it names; what it is given is made for this file alone."""
    for target in (b"torch\nSize\n", b"torch._utils\n_rebuild_tensor_v2\n", b"collections\nOrderedDict\n"):
        for attribute in (b"__defaults__", b"__setitem__", b"_function"):
            state = b"N}\x8c" + bytes([len(attribute)]) + attribute + b"K\x01\x85s\x86"
            (tmp_path / "bad.pth").write_bytes(b"\x80\x04c" + target + state + b"b.")
            with pytest.raises(CheckpointError):
                read_weights(tmp_path / "bad.pth")
    assert _FUNCTIONS["torch.Size"]() == ()
    torch.save({"state_dict": weights(), "a": Slotted()}, tmp_path / "good.pth")
    assert torch.equal(read_weights(tmp_path / "good.pth").state["head.tied"], weights()["head.tied"])


@pytest.mark.parametrize("legacy", [False, True])
def test_damaged_files_with_other_objects_fail_in_one_line(tmp_path, legacy):
    path, rng, reasons = tmp_path / "a.pth", random.Random(0), []
    save({"state_dict": weights(), **BESIDE}, path, legacy=legacy)
    written = path.read_bytes()
    for turn in range(200):
        damaged = bytearray(written[: rng.randrange(len(written))] if turn % 2 else written)
        for _ in range(3 if damaged else 0):
            damaged[rng.randrange(len(damaged))] ^= 1 << rng.randrange(8)
        path.write_bytes(damaged)
        try:
            read_weights(path)
        except CheckpointError as error:
            reasons.append(str(error))
    assert len(reasons) > 100
    assert all(reason.isprintable() for reason in reasons)


def zip_of_others(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("word/document.xml", "<a/>")


def torchscript(path):
    torch.jit.script(nn.Linear(2, 2)).save(str(path))


def half_a_zip(path):
    torch.save({"state_dict": weights()}, path)
    path.write_bytes(path.read_bytes()[:400])


JUNK = {
    "is empty": b"",
    "is not a checkpoint": random.Random(1).randbytes(3000).replace(b"\x80", b"\x81", 1),
    "is a text file": b"corrupt\nc\n",
    "a text file": "Café ".encode() * 300,
    "text file": b"a" + "🎬".encode() * 300,  # what is looked at ends three bytes into a character of four
    "pth is not a checkpoint": b"corrupt \xffile",  # Latin-1 text is not known to be text
    "is a web page": b"<!DOCTYPE html><html><title>404</title></html>",
    "web page": b"\n <HTML>",
    "Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n",
    "is a video": b"\x00\x00\x00\x20ftypisom" + bytes(100),
    "a video": b"\x1aE\xdf\xa3" + bytes(100),
    "safetensors": struct.pack("<Q", 2) + b"{}" + bytes(20),
    "zip archive that torch.save did not write": zip_of_others,
    "end is missing": half_a_zip,
    "TorchScript": torchscript,
    "torch.save did not write": pickle.dumps({"state_dict": {"head.weight": [1.0]}, "a": Stage.LAST}, protocol=2),
    "is a folder": pathlib.Path.mkdir,
}


@pytest.mark.parametrize("said", JUNK)
def test_junk_is_named_for_what_it_looks_like(tmp_path, said):
    path = tmp_path / "weights.pth"
    content = JUNK[said]
    content(path) if callable(content) else path.write_bytes(content)
    for read in (read_weights, load_checkpoint) if said != "is a folder" else (load_checkpoint,):
        with pytest.raises(CheckpointError) as caught:
            read(path)
        assert str(caught.value).startswith(str(path))
        assert "holds code" not in str(caught.value) or said in ("TorchScript", "torch.save did not write")
        if read is read_weights or callable(content) is False:
            assert said in str(caught.value) or said == "torch.save did not write"
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [b"", b"\xff" * 8, struct.pack("<Q", 100) + b"{", struct.pack("<Q", 4) + b"{\x1b]0", json.dumps({}).encode()],
)
def test_a_broken_header_of_safetensors_is_one_line(tmp_path, content):
    (tmp_path / "a.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        read_weights(tmp_path / "a.safetensors")
    assert str(caught.value).isprintable()
