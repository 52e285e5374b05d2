"""The table of mixers: what it says of each is true, and the page says the same."""

import math
import re
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

import videofib.mixers
from videofib.mixers import MIXERS, LayerSpec, Mixer
from videofib.mixers.mixer import NEEDS, SERVES

LAYER = LayerSpec(dim=24, num_heads=4, num_prefix_tokens=2, grid=(3, 4, 5), backend="cpu")


@pytest.mark.parametrize("name", MIXERS)
def test_multiply_adds_are_those_that_torch_counts(name):
    mixer = MIXERS[name].build(LAYER)
    shapes_only, as_products = FakeTensorMode(allow_non_fake_inputs=True), sdpa_kernel(SDPBackend.MATH)
    with shapes_only, as_products, FlopCounterMode(display=False) as counter, torch.no_grad():
        mixer(torch.zeros(1, 2 + 60, 24), LAYER.grid, None)
    assert MIXERS[name].multiply_adds(mixer, LAYER.grid) == counter.get_total_flops() // 2


@pytest.mark.parametrize("name", MIXERS)
def test_every_mixer_keeps_shape_and_hands_on_the_state_of_others(name):
    mixer = MIXERS[name].build(LAYER)
    state = {"of another mixer": torch.zeros(1)}
    y, handed_on = mixer(torch.randn(2, 62, 24), LAYER.grid, state)
    assert y.shape == (2, 62, 24)
    if "state" not in MIXERS[name].needs:
        assert handed_on is state


@pytest.mark.parametrize("grid", [(1, 6, 6), (8, 6, 6)])
@pytest.mark.parametrize("name", [name for name in MIXERS if name != "dense"])
def test_defaults_are_not_dense_attention_in_disguise(name, grid):
    layer = LayerSpec(dim=64, num_heads=4, num_prefix_tokens=1, grid=grid)
    dense, mixer = MIXERS["dense"].build(layer).eval(), MIXERS[name].build(layer).eval()
    with torch.no_grad():
        for parameter in dense.parameters():
            parameter.normal_(std=0.3)
    own = mixer.state_dict()
    mixer.load_state_dict(
        own | {key: x for key, x in dense.state_dict().items() if key in own and own[key].shape == x.shape}
    )
    x = torch.randn(2, 1 + math.prod(grid), 64)
    assert not torch.allclose(mixer(x, grid, None)[0], dense(x, grid, None)[0], atol=1e-4)


def test_the_page_has_a_row_for_every_mixer():
    page = (Path(videofib.mixers.__file__).parent / "README.md").read_text(encoding="utf-8")
    first_table = re.findall(r"^\| `\w+` \| \[.*$", page, re.MULTILINE)
    rows = [[cell.strip() for cell in row.split("|")[1:6]] for row in first_table]

    def listed(words, order):
        return ", ".join(word for word in order if word in words)

    expected = [
        [
            f"`{name}`",
            re.sub(r"arXiv (\S+)", r"[\1](https://arxiv.org/abs/\1)", mixer.paper),
            listed(mixer.needs, NEEDS),
            listed(mixer.serves, SERVES),
            ", ".join(mixer.options),
        ]
        for name, mixer in MIXERS.items()
    ]
    assert rows == expected


@pytest.mark.parametrize("words", [dict(needs=frozenset({"grids"})), dict(serves=frozenset({"class token"}))])
def test_a_row_has_known_words_only(words):
    with pytest.raises(ValueError, match="did you mean"):
        Mixer(torch.nn.Identity, "", lambda mixer, grid: 0, **words)
