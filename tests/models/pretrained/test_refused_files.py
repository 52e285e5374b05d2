"""Files that are damaged, hold code or belong to another model are refused with one line and change nothing."""

import json
import os
import struct

import pytest
import torch
from pytorchvideo.models.x3d import create_x3d
from safetensors.torch import save_file

from tests.models.pretrained.published import NARROW, PUBLISHED, official
from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def truncated(folder, model):
    content = torch.save(official(model), folder / "full.pyth") or (folder / "full.pyth").read_bytes()
    (folder / "cut.pyth").write_bytes(content[: len(content) // 2])
    return folder / "cut.pyth", "cut.pyth is damaged"


def bomb(folder, model):
    torch.save(official(model) | {"bomb": Bomb()}, folder / "bomb.pyth")
    return folder / "bomb.pyth", r"bomb.pyth holds code, (posix|nt)\.system"


def wider(folder, model):
    torch.save(official(TimeSformer(**NARROW | dict(embed_dim=48))), folder / "wide.pyth")
    return (
        folder / "wide.pyth",
        "patch_embed.proj.weight is 48x3x16x16 there and 24x3x16x16 here; is it another model's",
    )


def other_mlp(folder, model):
    torch.save(official(TimeSformer(**PUBLISHED, mlp_ratio=2)), folder / "mlp.pyth")
    return (
        folder / "mlp.pyth",
        "another model: blocks.0.mlp.fc1.weight is 48x24 there and 96x24 here; .* build the",
    )


def three_axes(folder, model):
    torch.save({"model_state": model.state_dict() | {"time_embed": torch.ones(2, 9, 24)}}, folder / "three.pyth")
    return folder / "three.pyth", "time_embed is 2x9x24 there"


def meta(folder, model):
    torch.save({"model_state": model.state_dict() | {"norm.weight": torch.ones(24, device="meta")}}, folder / "m.pyth")
    return folder / "m.pyth", r"norm.weight is torch.float32 \(torch.strided, meta\)"


def shallower(folder, model):
    torch.save(official(TimeSformer(**NARROW | dict(depth=1))), folder / "shallow.pyth")
    return folder / "shallow.pyth", r"blocks.1.norm1.weight is missing"


def convolutional(folder, model):
    torch.save({"model_state": create_x3d(model_num_class=5).state_dict()}, folder / "x3d.pyth")
    return folder / "x3d.pyth", "not the weights of a TimeSformer"


def nothing(folder, model):
    torch.save({"epoch": 3}, folder / "none.pyth")
    return folder / "none.pyth", "no weights in .*none.pyth; it holds epoch"


def integers(folder, model):
    state = model.state_dict() | {"blocks.0.norm1.weight": torch.ones(24, dtype=torch.int64)}
    torch.save({"model_state": state}, folder / "int.pyth")
    return folder / "int.pyth", "blocks.0.norm1.weight is torch.int64"


def flat(folder, model):
    torch.save({"model_state": model.state_dict() | {"pos_embed": torch.ones(24)}}, folder / "flat.pyth")
    return folder / "flat.pyth", "pos_embed is 24"


def no_square(folder, model):
    torch.save({"model_state": model.state_dict() | {"pos_embed": torch.ones(1, 99, 24)}}, folder / "odd.pyth")
    return folder / "odd.pyth", "99 positions are not a square"


def cut_safetensors(folder, model):
    save_file(model.state_dict(), folder / "model.safetensors")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    return folder, "model.safetensors is damaged"


def lying_safetensors(folder, model):
    header = json.dumps({"a": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()
    (folder / "lie.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + b"1234")
    return folder / "lie.safetensors", "lie.safetensors is damaged"


def broken_config(folder, model):
    save_file(model.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text('{"hidden_size": ')
    return folder, "config.json is damaged"


def empty_folder(folder, model):
    return folder, "no model.safetensors in"


def absent(folder, model):
    return folder / "nowhere.pyth", "no checkpoint at .*nowhere.pyth"


HOSTILE = [
    truncated, bomb, wider, other_mlp, three_axes, meta, shallower, convolutional, nothing, integers, flat, no_square,
    cut_safetensors, lying_safetensors, broken_config, empty_folder, absent,
]  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE, ids=lambda f: f.__name__)
def test_a_refused_file_is_named_and_the_model_unchanged(make, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = TimeSformer(**PUBLISHED)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    source, message = make(tmp_path, model)
    with pytest.raises(CheckpointError, match=message):
        load_pretrained(model, source)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert not (tmp_path / "exploded").exists()
