"""Models without values or without clips: on the meta device, initialised again, and with an empty batch."""

import pytest
import torch

from tests.pairs import every_value
from videofib.attention.backends import BACKENDS, INSTALLED
from videofib.models import TimeSformer, baselines

TINY = dict(img_size=32, patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=2, num_heads=3)
TYPES = ("divided_space_time", "joint_space_time", "space_only")
SPARSE = dict.fromkeys(("joint_attention", "space_attention", "time_attention"), "fibottention")
OPTIONS = [
    {},
    dict(position="sinusoid", num_registers=2, layer_scale=0.1, qk_norm=True, pre_norm=True),
    dict(tubelet_size=2, class_token=False, pooling="mean", qkv_bias=False, position_init_std=0.5),
    dict(num_classes=0, **SPARSE),
]
BASELINES = {
    "SlowFast": lambda: baselines.slowfast_r50(5, num_frames=8, crop_size=64),
    "X3D": lambda: baselines.x3d(5, crop_size=64),
    "R(2+1)D": lambda: baselines.r2plus1d_r50(5, crop_size=64),
    "MViT": lambda: baselines.mvit_b(5, num_frames=8, crop_size=64),
}


def on_meta(make):
    with torch.device("meta"):
        return make()


def without_values(make):
    """A model from the meta device, all NaN."""
    model = on_meta(make).to_empty(device="cpu")
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data.fill_(float("nan") if tensor.is_floating_point() else -1)
    return model


def check_reset(make):
    """``reset_parameters`` gives what ``make`` does under the same seed, and leaves out nothing."""
    torch.manual_seed(0)
    expected = make()
    model = without_values(make)
    torch.manual_seed(0)
    model.reset_parameters()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    for name, tensor in (*expected.named_parameters(), *expected.named_buffers()):
        assert torch.equal(tensors.pop(name), tensor), name
    assert not tensors


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("backend", ["auto", *(name for name in BACKENDS if name != "dense")])
def test_every_backend_gives_a_models_shapes_on_the_meta_device(backend, kind, monkeypatch):
    monkeypatch.setitem(INSTALLED, "triton", True)
    model = on_meta(lambda: TimeSformer(**TINY, attention_type=kind, attention_backend=backend, **SPARSE)).train()
    for shape in ((2, 3, 4, 32, 32), (1, 3, 8, 32, 64), (0, 3, 4, 32, 32)):
        logits = model(torch.empty(shape, device="meta"))
        assert (logits.shape, logits.device.type) == ((shape[0], 5), "meta")
        logits.sum().backward()
        assert all(p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("num_clips", [2, 0])
def test_baselines_give_shapes_on_the_meta_device(name, num_clips):
    video = torch.empty(num_clips, 3, 8, 64, 64, device="meta")
    assert on_meta(BASELINES[name]).eval()(video).shape == (num_clips, 5)


@pytest.mark.parametrize(("kind", "options"), every_value(TYPES, OPTIONS))
def test_a_model_from_the_meta_device_starts_as_a_new_one(kind, options):
    def make():
        return TimeSformer(**TINY | options, attention_type=kind)

    check_reset(make)


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_from_the_meta_device_starts_as_a_new_one(name):
    check_reset(BASELINES[name])


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_from_the_meta_device_takes_weights(name):
    """Nothing that no state dict holds is left without values."""
    expected, model = BASELINES[name]().eval(), without_values(BASELINES[name]).eval()
    model.load_state_dict(expected.state_dict())
    video = torch.randn(1, 3, 8, 64, 64)
    assert torch.equal(model(video), expected(video))


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize(
    ("kind", "options"), every_value(TYPES, [*OPTIONS, SPARSE | dict(attention_backend="gather", attn_drop_rate=0.1)])
)
def test_an_empty_batch_gives_no_logits_and_zero_gradients(kind, options, mode):
    model = TimeSformer(**TINY | options, attention_type=kind).train(mode)
    found = model(torch.empty(0, 3, 4, 32, 32))
    assert found.shape == (0, 24 if options.get("num_classes") == 0 else 5)
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())


@pytest.mark.parametrize("mode", [True, False])
@pytest.mark.parametrize("name", BASELINES)
def test_an_empty_batch_leaves_a_baseline_as_it_is(name, mode):
    """In particular the statistics of its batch norms."""
    model = BASELINES[name]().train(mode)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    found = model(torch.empty(0, 3, 8, 64, 64))
    assert found.shape == (0, 5)
    found.sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in model.parameters())
    assert model.forward_features(torch.empty(0, 3, 8, 64, 64)).shape == (0, model.classifier.in_features)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
