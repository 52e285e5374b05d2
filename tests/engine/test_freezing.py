"""Frozen parts keep their values and draw no random numbers; everything around them is trained as usual."""

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn

from tests.engine.in_memory import NUM_CLASSES, Loader, make_videos
from videofib.checkpoint.manager import NoCheckpoints
from videofib.config import load_config
from videofib.distributed import processes
from videofib.distributed.launch import launch
from videofib.engine.freezing import freeze, freeze_all_but, set_train_mode
from videofib.engine.objective import Supervised
from videofib.engine.optim import parameter_groups
from videofib.engine.schedule import Schedule
from videofib.engine.step import Recipe
from videofib.engine.train import train
from videofib.models import TimeSformer
from videofib.models.pretrained.load import classifier_names
from videofib.run.models import build_model


def make_model():
    torch.manual_seed(0)
    sizes = dict(img_size=4, patch_size=2, num_classes=NUM_CLASSES, num_frames=2, embed_dim=8, depth=2, num_heads=2)
    return TimeSformer(**sizes, drop_rate=0.5, attn_drop_rate=0.5, drop_path_rate=0.5)


def in_training(model):
    return {name for name, module in model.named_modules() if module.training}


def run(model, ema=None, epochs=2):
    rank, world = processes.rank(), processes.world_size()
    loader = Loader(*make_videos(12), range(rank, 12, world), 4 // world)
    train(
        model,
        loader,
        torch.optim.SGD(parameter_groups(model, 0.01), lr=0.0),
        Recipe(lr_at=lambda epoch: 0.1, objective=Supervised(nn.CrossEntropyLoss()), clip_grad_norm=1.0, ema=ema),
        Schedule(epochs),
        checkpoints=NoCheckpoints(),
        validate=dict,
    )
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_nothing_frozen_is_plain_training():
    model = make_model()
    set_train_mode(model)
    assert in_training(model) == {name for name, _ in model.named_modules()}


def test_a_linear_probe_sees_the_model_without_dropout():
    model = make_model()
    freeze_all_but(model, classifier_names(model))
    set_train_mode(model)
    assert in_training(model) == {"", "head"}
    assert model.forward_features(torch.randn(1, 3, 2, 4, 4)).grad_fn is None  # nothing is kept for a backward pass


def test_frozen_first_blocks_are_in_evaluation_mode_and_later_ones_are_not():
    model = make_model()
    freeze(model, ["cls_token", "pos_embed", "time_embed", "patch_embed.*", "blocks.0.*"])
    set_train_mode(model)
    still = {name for name, _ in model.named_modules()} - in_training(model)
    assert {"patch_embed", "pos_drop", "blocks.0", "blocks.0.drop_path", "blocks.0.attn", "blocks.0.mlp.drop1"} <= still
    assert not [name for name in still if name.startswith(("blocks.1", "norm.", "head"))]

    model = make_model()
    freeze(model, ["blocks.1.*"])
    set_train_mode(model)
    assert {name for name, _ in model.named_modules() if name.startswith("blocks.1")}.isdisjoint(in_training(model))
    assert {"pos_drop", "blocks.0.drop_path", "blocks.0.mlp.drop1", "norm", "head"} <= in_training(model)


def test_batch_norms_of_a_frozen_part_keep_their_statistics():
    overrides = ["MODEL.MODEL_NAME", "X3D_S", "MODEL.NUM_CLASSES", "3", "DATA.TRAIN_CROP_SIZE", "32"]
    model = build_model(load_config(None, [*overrides, "DATA.TEST_CROP_SIZE", "32"]))
    freeze_all_but(model, classifier_names(model))
    before = {name: value.clone() for name, value in model.named_buffers()}
    set_train_mode(model)
    model(torch.randn(2, 3, 4, 32, 32)).sum().backward()
    assert any(name.endswith("running_mean") for name in before)
    assert all(torch.equal(before[name], value) for name, value in model.named_buffers())
    assert [name for name, parameter in model.named_parameters() if parameter.grad is not None] == [
        f"{classifier}.{kind}"
        for classifier in sorted({name.rpartition(".")[0] for name in classifier_names(model)})
        for kind in ("weight", "bias")
    ]


def probe(folder):
    model = make_model()
    freeze_all_but(model, classifier_names(model))
    torch.save(run(model), folder / f"{processes.world_size()}_{processes.rank()}.pt")


def test_several_processes_and_a_moving_average_work_with_frozen_parts(tmp_path):
    probe(tmp_path)
    launch(probe, (tmp_path,), processes=2)
    one, two = (torch.load(tmp_path / name) for name in ("1_0.pt", "2_1.pt"))
    before = make_model().state_dict()
    changed = {name for name in before if not torch.equal(before[name], one[name])}
    assert changed == {"head.weight", "head.bias"}
    for name in before:
        torch.testing.assert_close(one[name], two[name], rtol=0, atol=1e-6)

    model = make_model()
    freeze_all_but(model, classifier_names(model))
    ema = ModelEmaV3(model, decay=0.9)
    run(model, ema)
    averaged = ema.module.state_dict()
    assert {name for name in before if not torch.equal(before[name], averaged[name])} == changed


def test_patterns_that_match_nothing_or_everything_are_refused():
    with pytest.raises(ValueError, match=r"'block\.\*' matches no parameter; they are cls_token, pos_embed"):
        freeze(make_model(), ["patch_embed.*", "block.*"])
    with pytest.raises(ValueError, match=r"no parameter is left to train: '\*' match all \d+ parameters"):
        freeze(make_model(), ["*"])
