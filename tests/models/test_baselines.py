"""Baselines: published sizes, pytorchvideo's names and outputs, raw logits, clip sizes, pathways, errors."""

import copy
import pickle
import re
import subprocess
import sys
from functools import cache

import pytest
import torch
from pytorchvideo.models import hub
from pytorchvideo.models.r2plus1d import create_r2plus1d
from pytorchvideo.models.slowfast import create_slowfast
from pytorchvideo.models.x3d import create_x3d
from torch import nn

from tests.pairs import every_value
from videofib.config import load_config
from videofib.engine.optim import parameter_groups
from videofib.models import baselines
from videofib.models.profiling import cost
from videofib.run.models import build_model

NAMES = ["SlowFast_R50", "X3D_S", "R2plus1D_R50", "MViT_B"]
CONV_NETS = NAMES[:3]
K = 5


def tiny(name):
    """A baseline for clips of 8 frames of 64 pixels, in which every part matters: as built, residual branches are 0."""
    return copy.deepcopy(_tiny(name))


@cache
def _tiny(name):
    torch.manual_seed(0)
    model = {
        "SlowFast_R50": lambda: baselines.slowfast_r50(K, num_frames=8, crop_size=64),
        "X3D_S": lambda: baselines.x3d(K, crop_size=64),
        "R2plus1D_R50": lambda: baselines.r2plus1d_r50(K, crop_size=64),
        "MViT_B": lambda: baselines.mvit_b(K, num_frames=8, crop_size=64),
    }[name]()
    nn.init.normal_(classifier(model).weight)
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm3d)]
    for norm in norms:
        nn.init.uniform_(norm.weight, 0.5, 1.0)
        norm.momentum = 1.0
    if norms:  # their statistics, without which activations vanish from layer to layer
        with torch.no_grad():
            model(torch.randn(4, 3, 8, 64, 64))
    return model.eval()


def classifier(model):
    return (model.head if isinstance(model, baselines.MViT) else model.blocks[-1]).proj


def by_pytorchvideo(name):
    """What pytorchvideo itself builds for the same clips; its heads' windows are fixed, and 2 x 2 for 64 pixels."""
    if name == "SlowFast_R50":
        return create_slowfast(model_num_class=K, head_pool_kernel_sizes=((2, 2, 2), (8, 2, 2)))
    if name == "X3D_S":
        return create_x3d(model_num_class=K, input_clip_length=8, input_crop_size=64, head_activation=None)
    if name == "R2plus1D_R50":
        return create_r2plus1d(model_num_class=K, head_pool_kernel_size=(2, 2, 2), head_activation=None)
    return hub.mvit_base_16x4(head_num_classes=K, spatial_size=64, temporal_size=8)


def clips(*sizes, batch=2, frames=8):
    torch.manual_seed(1)
    return torch.randn(batch, 3, frames, *(sizes or (64, 64)))


PUBLISHED = [  # in pytorchvideo's model zoo: M parameters, G multiply-adds of a view of this size
    # The last column is how many times the zoo counts a number that batch norm puts out; videofib.models.profiling
    # counts it twice, as fvcore does now. It is not documented: these are the counts that give the zoo's figures.
    ("SlowFast_R50_8x8_224", (32, 256), 34.57, 65.71, 0),
    ("X3D_S_13x6_160", (13, 182), 3.79, 2.96, 5),
    ("X3D_M_16x5_224", (16, 256), 3.79, 6.72, 5),
    ("R2plus1D_R50_16x4_224", (16, 256), 28.11, 76.45, 5),
    ("MViT_B_16x4_224", (16, 224), 36.61, 70.80, 5),
]


def from_config(file):
    return build_model(load_config(f"configs/Kinetics/{file}.yaml"))


@pytest.fixture(autouse=True)
def _configs_are_found(monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)


@pytest.mark.parametrize(("file", "size", "millions", "giga", "times"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_parameters_are_as_published(file, size, millions, giga, times):
    with torch.device("meta"):
        model = from_config(file)
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("file", "size", "millions", "giga", "times"), PUBLISHED, ids=[row[0] for row in PUBLISHED])
def test_multiply_adds_are_as_published(file, size, millions, giga, times):
    frames, crop = size
    found = cost(from_config(file), (3, frames, crop, crop))
    assert found.multiply_adds / 1e9 == pytest.approx(giga, rel=0.05)
    batch_norm = found.by_operator.get("batch_norm", 0)
    recounted = found.multiply_adds - batch_norm + times * batch_norm / 2
    assert recounted / 1e9 == pytest.approx(giga, abs=0.005)


@pytest.mark.parametrize("name", NAMES)
def test_names_are_those_of_the_model_zoo(name):
    theirs = {"SlowFast_R50": "slowfast_r50", "X3D_S": "x3d_s", "R2plus1D_R50": "r2plus1d_r50"}
    published = getattr(hub, theirs.get(name, "mvit_base_16x4"))()
    ours = build_model(load_config(None, sized(name)))
    assert {key: x.shape for key, x in ours.state_dict().items()} == {
        key: x.shape for key, x in published.state_dict().items()
    }


def sized(name):
    """Overrides for the clips that the default arguments are made for."""
    frames = "32" if name == "SlowFast_R50" else "16"
    return ["MODEL.MODEL_NAME", name, "DATA.NUM_FRAMES", frames]


@pytest.mark.parametrize(
    ("name", "size"),
    [
        *((name, 64) for name in NAMES),
        *(pytest.param(name, size, marks=pytest.mark.slow) for name in CONV_NETS for size in (80, 96)),
    ],
)
@torch.no_grad()
def test_logits_are_those_of_pytorchvideo(name, size):
    """At the size of training crops and, where there is no position embedding, at those of larger test crops."""
    ours, theirs = tiny(name).double(), by_pytorchvideo(name).double().eval()
    theirs.load_state_dict(ours.state_dict())
    video = clips(size, size).double()
    expected = theirs([video[:, :, [0, 7]], video] if name == "SlowFast_R50" else video)
    torch.testing.assert_close(ours(video), expected)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_logits_are_raw(name):
    """They follow the classifier's scale, in training and in evaluation."""
    model = tiny(name)
    weight = classifier(model).weight
    for mode in (True, False):
        model.train(mode)
        outputs = []
        for scale in (1, 3):
            weight.mul_(scale)
            torch.manual_seed(2)  # dropout
            outputs.append(model(clips()))
            weight.div_(scale)
        assert outputs[0].shape == (2, K)
        torch.testing.assert_close(outputs[1], 3 * outputs[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "size"), every_value(CONV_NETS, [(32, 32), (50, 96), (100, 70)]))
@torch.no_grad()
def test_convolutional_nets_take_any_crop(name, size):
    model = tiny(name)
    for mode in (False, True):
        assert model.train(mode)(clips(*size)).isfinite().all()


@pytest.mark.parametrize("name", CONV_NETS)
@torch.no_grad()
def test_convolutional_nets_take_other_clip_lengths(name):
    assert tiny(name)(clips(frames=12)).shape == (2, K)


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other(name):
    model, video = tiny(name).double(), clips().double()  # one clip takes other kernels than two, which round otherwise
    both = model(video)
    torch.testing.assert_close(both[1:], model(video[1:]))
    assert (both[0] - both[1]).abs().max() > 0.05


@pytest.mark.parametrize("name", NAMES)
def test_gradients_reach_every_parameter(name):
    model = tiny(name).train()
    nn.functional.cross_entropy(model(clips()), torch.tensor([0, 1])).backward()
    without = [key for key, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_copies_compute_the_same(name):
    model, video = tiny(name), clips()
    expected = model(video)
    assert torch.equal(copy.deepcopy(model)(video), expected)
    assert torch.equal(pickle.loads(pickle.dumps(model))(video), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SlowFast_R50", "MViT_B"])
@torch.no_grad()
def test_compiled_models_compute_the_same(name):
    model, video = tiny(name), clips()
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    assert torch.equal(compiled(video), model(video))


def test_slow_pathway_sees_frames_from_the_first_to_the_last():
    assert baselines.slow_frames(32, 4).tolist() == [0, 4, 8, 13, 17, 22, 26, 31]
    assert baselines.slow_frames(8, 4).tolist() == [0, 7]
    assert baselines.slow_frames(4, 4).tolist() == [0]
    assert baselines.slow_frames(3, 1).tolist() == [0, 1, 2]


@torch.no_grad()
def test_pathways_are_packed_as_slow_and_fast():
    model, seen = tiny("SlowFast_R50"), []
    model.blocks[0].register_forward_pre_hook(lambda module, args: seen.extend(args[0]))
    video = clips(frames=16)
    kept = video.clone()
    model(video)
    slow, fast = seen
    assert torch.equal(slow, video[:, :, [0, 5, 10, 15]])
    assert torch.equal(fast, video)
    assert torch.equal(video, kept)


@torch.no_grad()
def test_every_frame_matters_to_slowfast():
    model, video = tiny("SlowFast_R50"), clips(batch=1)
    changed = video.repeat(8, 1, 1, 1, 1)
    for frame in range(8):
        changed[frame, :, frame] += 1
    assert ((model(changed) - model(video)).abs().amax(1) > 0.01).all()


@pytest.mark.parametrize(
    ("name", "shape"), every_value(CONV_NETS, [(1, 3, 8, 31, 64), (1, 3, 8, 64, 16), (3, 8, 64, 64), (1, 1, 8, 64, 64)])
)
def test_wrong_clips_are_refused_with_their_shape(name, shape):
    with pytest.raises(ValueError, match=r"H and W at least 32 pixels, got " + re.escape(str(shape))):
        tiny(name)(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(1, 3, 8, 96, 96), (1, 3, 4, 64, 64), (3, 8, 64, 64), (1, 1, 8, 64, 64)])
def test_mvit_refuses_other_clips_than_it_was_built_for(shape):
    with pytest.raises(ValueError, match=re.escape(f"built for clips (B, 3, 8, 64, 64), got {shape}")):
        tiny("MViT_B")(torch.zeros(shape))


def test_frames_that_alpha_does_not_divide_are_refused():
    with pytest.raises(ValueError, match="got T=10, alpha=4"):
        tiny("SlowFast_R50")(clips(frames=10))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ("SlowFast_R50 DATA.NUM_FRAMES 30", "got T=30, alpha=4"),
        ("SlowFast_R50 DATA.NUM_FRAMES 32 SLOWFAST.ALPHA 5", "got T=32, alpha=5"),
        ("X3D_S DATA.TRAIN_CROP_SIZE 16", "at least 32 pixels, got crop size 16"),
        ("R2plus1D_R50 DATA.TRAIN_CROP_SIZE 16", "at least 32 pixels, got crop size 16"),
        ("MViT_B DATA.NUM_FRAMES 15", "got T=15, crop size 224"),
        ("MViT_B DATA.TRAIN_CROP_SIZE 90 DATA.TEST_CROP_SIZE 90", "got T=8, crop size 90"),
        ("MViT_B DATA.TEST_CROP_SIZE 256", "they are 224 and 256"),
        ("X3D", "MODEL.MODEL_NAME is X3D on the command line; it must be one of TimeSformer, SlowFast_R50, X3D_S"),
    ],
)
def test_configs_without_a_possible_model_are_refused(overrides, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        build_model(load_config(None, ["MODEL.MODEL_NAME", *overrides.split()]))


@pytest.mark.parametrize("name", NAMES)
def test_the_config_sets_classes_and_dropout(name):
    overrides = [*sized(name), "MODEL.NUM_CLASSES", "7", "MODEL.DROPOUT_RATE", "0.25"]
    with torch.device("meta"):
        model = build_model(load_config(None, overrides))
    head = model.head if name == "MViT_B" else model.blocks[-1]
    assert (classifier(model).out_features, head.dropout.p) == (7, 0.25)


def test_mvit_decays_neither_its_class_token_nor_its_positions():
    model = tiny("MViT_B")
    names = ["cls_token", "pos_embed_spatial", "pos_embed_temporal", "pos_embed_class"]
    assert model.no_weight_decay() == {f"cls_positional_encoding.{name}" for name in names}
    decayed = {id(p) for p in parameter_groups(model, 0.05)[0]["params"]}
    assert decayed == {id(p) for key, p in model.named_parameters() if p.ndim > 1 and "positional" not in key}


def test_a_timesformer_is_built_without_pytorchvideo():
    script = (
        "import sys; from videofib.config import load_config; from videofib.run.models import build_model\n"
        "build_model(load_config(None, ['TIMESFORMER.DEPTH', '1']))\n"
        "print([name for name in sys.modules if name.startswith('pytorchvideo')])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", NAMES)
def test_features_are_what_the_classifier_sees(name):
    model = tiny(name)
    video = torch.randn(2, 3, 8, 64, 64 if name == "MViT_B" else 96)  # 96: several windows in convolutional networks
    with torch.inference_mode():
        features = model.forward_features(video)
        assert features.shape == (2, classifier(model).in_features)
        torch.testing.assert_close(classifier(model)(features), model(video), rtol=1e-4, atol=1e-4)
