"""Files with several models, and names behind wrappers: which model is taken, and how to take another."""

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from videofib.checkpoint.file import CheckpointError
from videofib.models import TimeSformer
from videofib.models.pretrained.load import load_pretrained
from videofib.models.pretrained.weight_files import read_weights

TINY = dict(img_size=32, patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=2, num_heads=3)


@pytest.fixture
def models(randomize):
    """Two models of one kind, with other weights."""
    return randomize(TimeSformer(**TINY), seed=1), randomize(TimeSformer(**TINY), seed=2)


def prefixed(model, backbone, classifier=None):
    """The state dict behind a prefix; the classifier may have another one."""
    classifier = backbone if classifier is None else classifier
    return {
        (classifier if name.startswith("head.") else backbone) + name: tensor
        for name, tensor in model.state_dict().items()
    }


def loaded_from(content, model, **options):
    """The report, where all weights of ``model`` were taken from ``content``."""
    ours = TimeSformer(**TINY)
    report = load_pretrained(ours, content, strict=True, **options)
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name
    return report


# names behind wrappers


@pytest.mark.parametrize(
    ("backbone", "classifier"),
    [
        *[
            (prefix, prefix)
            for prefix in ("model.", "module.", "_orig_mod.", "module._orig_mod.model.", "net.encoder.")
        ],
        ("backbone.", ""),
        ("encoder.", ""),
        ("module.backbone.", "module."),
        ("model.encoder.", "model."),
        ("_orig_mod.module.model.backbone.", "_orig_mod.module.model."),
        ("_orig_mod.module.model.backbone.", "_orig_mod."),
    ],
)
def test_the_classifier_may_stand_beside_the_backbone(backbone, classifier, models):
    loaded_from(prefixed(models[0], backbone, classifier), models[0])
    loaded_from({"state_dict": prefixed(models[0], backbone, classifier), "epoch": 3}, models[0])


@pytest.mark.parametrize(
    "layer",
    [
        "classifier",
        "fc",
        "cls_head.fc_cls",
        "fc_cls",
        "head.fc",
        "head.1",
        "head.projection",
        "linear",
        "model.classifier",
    ],
)
def test_a_classifier_may_have_another_name(layer, models):
    state = {name.replace("head.", f"{layer}."): t for name, t in prefixed(models[0], "model.backbone.", "").items()}
    loaded_from(state, models[0])


def test_of_two_classifiers_none_is_guessed(models):
    state = {name: t for name, t in models[0].state_dict().items() if not name.startswith("head.")}
    state |= {f"{layer}.{part}": t for layer in ("fc", "classifier") for part, t in models[0].head.state_dict().items()}
    report = load_pretrained(TimeSformer(**TINY), state)
    assert report.untrained == ("head.weight", "head.bias")
    assert len(report.unused) == 4


def test_two_tensors_of_one_name_are_refused(models):
    state = prefixed(models[0], "model.backbone.") | {"model.head.weight": torch.zeros(5, 24)}
    with pytest.raises(CheckpointError, match=r"with and without the prefix 'model.backbone.', such as head.weight"):
        load_pretrained(TimeSformer(**TINY), state)


# averages


def averaged(model, average):
    """The state of torch's AveragedModel, whose average is ``average``."""
    ema = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.9))
    ema.module.load_state_dict(average.state_dict())
    ema.n_averaged += 7
    return ema.state_dict()


@pytest.mark.parametrize(
    ("key", "average_key"),
    [
        ("state_dict", "state_dict_ema"),
        ("model", "model_ema"),
        ("model", "ema"),
        ("model_state_dict", "ema_state_dict"),
        ("model_state", "ema_state"),
        ("net", "averaged_model"),
        ("model", "swa_model"),
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_an_average_is_preferred_and_named(key, average_key, swap, models):
    model, average = models
    content = {key: model.state_dict(), average_key: averaged(model, average), "optimizer": {"state": {}}}
    if swap:
        content = dict(reversed(content.items()))
    report = loaded_from(content, average)
    assert (report.part, report.others) == (f"{average_key}.module", (key,))
    assert f"part: {average_key}.module; not loaded: {key}" in str(report)
    assert loaded_from(content, model, part=key).others == (f"{average_key}.module",)


def test_an_average_may_stand_deeper_or_among_the_names(models):
    model, average = models
    deep = {"state_dict": prefixed(model, "model."), "callbacks": {"EMA": {"ema_weights": average.state_dict()}}}
    assert loaded_from(deep, average).part == "callbacks.EMA.ema_weights"
    flat = prefixed(model, "model.backbone.", "model.") | prefixed(average, "ema_model.backbone.", "ema_model.")
    assert loaded_from({"state_dict": flat}, average).part == "state_dict.ema_model.backbone"
    loaded_from({"state_dict": flat}, model, part="model")


def test_a_file_of_an_averaged_model_alone(models):
    model, average = models
    loaded_from(averaged(model, average), average)
    loaded_from(AveragedModel(average), average)


def test_mmengine_saves_the_average_as_the_model(models):
    model, average = models
    content = {"meta": {"mmengine_version": "0.10.4"}, "state_dict": prefixed(average, "backbone."),
               "ema_state_dict": averaged(average, model)}  # fmt: skip
    assert loaded_from(content, average).part == "state_dict.backbone"


# several models


@pytest.mark.parametrize(
    ("one", "other"),
    [("student", "teacher"), ("online_network", "target_network"), ("model", "teacher"), ("encoder", "target_encoder")],
)
@pytest.mark.parametrize("flat", [False, True])
def test_of_two_models_one_is_to_be_chosen(one, other, flat, models, tmp_path):
    if flat:
        content = prefixed(models[0], f"{one}.backbone.", f"{one}.") | prefixed(models[1], f"{other}.backbone.")
    else:
        content = {one: prefixed(models[0], "backbone.", ""), other: prefixed(models[1], "module.backbone.")}
    torch.save(content, tmp_path / "both.pth")
    with pytest.raises(CheckpointError, match=rf"both.pth .*several models, '{one}[^']*', '{other}[^']*'; .* part="):
        load_pretrained(TimeSformer(**TINY), tmp_path / "both.pth")
    loaded_from(tmp_path / "both.pth", models[0], part=one)
    loaded_from(tmp_path / "both.pth", models[1], part=other)
    with pytest.raises(CheckpointError, match=r"no part is called 'tutor'; there are '"):
        load_pretrained(TimeSformer(**TINY), tmp_path / "both.pth", part="tutor")
    with pytest.raises(CheckpointError, match="several parts are called 'backbone'"):
        load_pretrained(TimeSformer(**TINY), tmp_path / "both.pth", part="backbone")


def test_an_average_beside_two_models_is_not_guessed_whose_it_is(models):
    content = {"student": models[0].state_dict(), "teacher": models[1].state_dict(), "ema": models[1].state_dict()}
    with pytest.raises(CheckpointError, match="several models, 'student', 'teacher', 'ema'"):
        load_pretrained(TimeSformer(**TINY), content)


def test_one_model_within_the_names_of_another(models):
    content = models[0].state_dict() | prefixed(models[1], "teacher.")
    with pytest.raises(CheckpointError, match="several models"):
        load_pretrained(TimeSformer(**TINY), content)
    loaded_from(content, models[1], part="teacher")


def test_what_is_no_model_is_no_part(models):
    content = {
        "teacher": models[0].state_dict(),
        "loss": {"center": torch.zeros(1, 5)},
        "discriminator": nn.Linear(3, 2).state_dict(),
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": []},
    }
    assert not loaded_from(content, models[0]).others


def test_a_part_of_weights_that_were_read_is_chosen_where_they_are_read(models):
    content = {"student": models[0].state_dict(), "teacher": models[1].state_dict()}
    weights = read_weights(content, "student")
    assert (weights.part, weights.others) == ("student", ("teacher",))
    loaded_from(weights, models[0])
    with pytest.raises(ValueError, match=r"read_weights\(..., part='teacher'\)"):
        load_pretrained(TimeSformer(**TINY), weights, part="teacher")


def test_a_dict_that_contains_itself_is_read_once(models):
    content = {"model": models[0].state_dict()}
    content |= {f"again{i}": content for i in range(300)}
    loaded_from(content, models[0])
