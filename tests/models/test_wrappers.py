"""Wrapped models, in any order of wrappers: as source and target of weights, exported and profiled."""

from itertools import permutations

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from videofib.models import TimeSformer
from videofib.models.pretrained.export import save_hugging_face, save_official
from videofib.models.pretrained.load import load_pretrained
from videofib.models.profiling import cost, forward_multiply_adds
from videofib.models.wrappers import unwrapped

TINY = dict(img_size=32, patch_size=8, num_classes=5, num_frames=4, embed_dim=24, depth=2, num_heads=3)
CLIP = (3, 4, 32, 32)
WRAPPERS = (nn.DataParallel, AveragedModel, torch.compile)
ORDERS = [order for count in (1, 2, 3) for order in permutations(WRAPPERS, count)]


def wrapped(model, order):
    for wrap in order:
        model = wrap(model)
    return model


@pytest.mark.parametrize("order", ORDERS, ids=lambda order: " ".join(wrap.__name__ for wrap in order))
def test_a_wrapped_model_is_the_model_within(order, tmp_path, randomize):
    source = randomize(TimeSformer(**TINY))
    theirs, target = wrapped(source, order), wrapped(TimeSformer(**TINY), order)
    assert load_pretrained(target, theirs).is_exact
    ours = unwrapped(target)
    assert type(ours) is TimeSformer
    for name, tensor in ours.state_dict().items():
        assert torch.equal(tensor, source.state_dict()[name])
    save_official(target, tmp_path / "model.pyth")
    save_hugging_face(target, tmp_path / "folder")
    for file in (tmp_path / "model.pyth", tmp_path / "folder"):
        assert load_pretrained(TimeSformer(**TINY), file).fits
    assert forward_multiply_adds(target, CLIP) == forward_multiply_adds(source, CLIP) > 0
    if len(order) == 1:
        assert cost(target, CLIP) == cost(source, CLIP)
