"""Figures of the authors' released code, which is not needed here.

They are from running, in double precision, ``get_mask_attn_wythoff`` of github.com/ak811/Fibottention at commit 4b2501e
(windows 5 .. N // 3) and, where a comment says so, of github.com/Charlotte-CharMLab/Fibottention at 1ab2a27 (windows
N), with the arithmetic of their ``Attention.forward``. docs/fidelity/fibottention.md says what of it is matched.
"""

import pytest
import torch

from videofib.attention import SelfAttention, Support, sparse_attention

HEAD_ORDERS = [  # the Wythoff row of each of 12 heads; layers 0 to 3
    [2, 10, 9, 6, 11, 3, 4, 8, 5, 1, 12, 7],
    [8, 12, 1, 9, 6, 7, 4, 11, 5, 2, 10, 3],
    [10, 12, 4, 5, 8, 7, 9, 3, 6, 11, 2, 1],
    [2, 8, 11, 1, 7, 12, 5, 6, 3, 9, 10, 4],
]


def rows(text):
    return tuple(tuple(map(int, row.split())) for row in text.split("·"))


def test_offsets_of_the_modified_variant():
    expected = rows(
        "0 1 2 3 5 · 1 3 4 7 · 2 4 6 10 · 3 6 9 15 · 4 8 12 20 · 5 9 14 23 · 6 11 17 28 · 7 12 19 31 · 8 14 22 36 · "
        "9 16 25 41 · 10 17 27 44 · 11 19 30 49"
    )
    assert Support.fibottention(12, 196, variant="modified").offsets == expected


def test_offsets_with_every_window_as_long_as_the_sequence():
    expected = rows(  # Charlotte-CharMLab at 1ab2a27
        "1 2 3 5 8 13 21 34 55 89 144 · 4 7 11 18 29 47 76 123 · 6 10 16 26 42 68 110 178 · 9 15 24 39 63 102 165 · "
        "12 20 32 52 84 136 · 14 23 37 60 97 157 · 17 28 45 73 118 191 · 19 31 50 81 131 · 22 36 58 94 152 · "
        "25 41 66 107 173 · 27 44 71 115 186 · 30 49 79 128"
    )
    assert Support.fibottention(12, 196, w_min=196, w_max=196).offsets == expected


@pytest.mark.parametrize(
    ("num_tokens", "windows", "standard", "modified"),
    [
        (196, {}, 13908, 22358),
        (100, {}, 5386, 9516),
        (784, {}, 103702, 138612),
        (1568, {}, 246886, 317076),
        (196, dict(w_min=196, w_max=196), 25360, 33810),  # Charlotte-CharMLab at 1ab2a27
    ],
)
def test_ones_in_the_mask_with_class_token(num_tokens, windows, standard, modified):
    assert Support.fibottention(12, num_tokens, **windows).to_mask().sum() == standard
    assert Support.fibottention(12, num_tokens, variant="modified", **windows).to_mask().sum() == modified


@pytest.mark.parametrize(("num_tokens", "modified"), [(49, 3309), (16, 812)])
def test_ones_in_the_modified_mask_of_few_tokens(num_tokens, modified):
    assert Support.fibottention(12, num_tokens, variant="modified").to_mask().sum() == modified


def test_ones_in_the_mask_of_the_earlier_modified_variant():
    assert Support.fibottention(12, 196, variant="modified_early").to_mask().sum() == 22162
    windows = dict(w_min=196, w_max=196)  # Charlotte-CharMLab at 8854d91
    assert Support.fibottention(12, 196, variant="modified_early", **windows).to_mask().sum() == 33614


@pytest.mark.parametrize("variant", ["wythoff", "modified", "modified_early"])
@pytest.mark.parametrize("layer", range(4))
def test_head_orders_of_the_first_layers(variant, layer):
    plain = Support.fibottention(12, 196, variant=variant).offsets
    for head_order, expected in (("per_layer", HEAD_ORDERS[layer]), ("first_layer", HEAD_ORDERS[0])):
        found = Support.fibottention(12, 196, variant=variant, head_order=head_order, layer_index=layer).offsets
        assert found == tuple(plain[row - 1] for row in expected)


def waves():
    """q, k and v, (1, 12, 197, 4), without randomness."""
    i = torch.arange(12 * 197 * 4, dtype=torch.float64).reshape(1, 12, 197, 4)
    return i.sin(), 4 * (0.5 * i).cos(), (0.3 * i).sin()


OUTPUTS = [  # settings of the support; four entries of the output; the sum of all absolute values
    (dict(), [0.028249, -0.006350, 0.060371, 0.036024], 478.7924),
    (dict(variant="modified"), [0.043307, 0.088895, 0.066721, -0.010190], 591.5058),
    (dict(head_order="per_layer"), [-0.029855, -0.095470, -0.102345, 0.099718], 487.5127),
    (dict(head_order="per_layer", layer_index=3), [-0.029855, -0.100638, 0.012422, 0.017295], 487.1452),
    (dict(head_order="per_layer", variant="modified"), [-0.010647, 0.073483, -0.147994, 0.040432], 602.4268),
    (
        dict(head_order="per_layer", variant="modified", layer_index=3),
        [-0.010647, -0.089793, 0.017011, 0.016079],
        605.8541,
    ),
    (  # Charlotte-CharMLab at 1ab2a27
        dict(head_order="per_layer", layer_index=3, w_min=196, w_max=196),
        [-0.262905, -0.099161, -0.031343, 0.160262],
        732.6174,
    ),
]


@pytest.mark.parametrize("backend", ["reference", "gather", "cpu"])
@pytest.mark.parametrize(("settings", "entries", "total"), OUTPUTS)
def test_outputs_under_zero_logit(settings, entries, total, backend):
    out = sparse_attention(*waves(), Support.fibottention(12, 196, **settings), masking="zero_logit", backend=backend)
    found = [out[0, head, token, channel] for head, token, channel in ((0, 1, 0), (2, 60, 1), (5, 196, 2), (11, 50, 3))]
    assert [round(x.item(), 6) for x in found] == pytest.approx(entries, abs=1.5e-6)
    assert out.abs().sum().item() == pytest.approx(total, abs=1e-4)


def test_a_layer_with_its_projections():
    support = Support.fibottention(12, 196, head_order="first_layer", layer_index=7)
    layer = SelfAttention(24, 12, support, masking="zero_logit").double()
    with torch.no_grad():
        for n, p in enumerate(layer.parameters()):
            p.copy_(0.3 * torch.sin(torch.arange(p.numel(), dtype=torch.float64) + n).reshape(p.shape))
        out = layer(torch.cos(torch.arange(197 * 24, dtype=torch.float64)).reshape(1, 197, 24))[0]
    found = [out[token, channel].item() for token, channel in ((0, 0), (1, 5), (98, 11), (196, 23))]
    assert found == pytest.approx([-0.510535, -2.306242, 6.356174, -5.014383], abs=1.5e-6)
