"""The layer: names, supports for any N, agreement with timm's attention, errors."""

from functools import partial

import pytest
import torch
from timm.models.vision_transformer import Attention

from videofib.attention import SelfAttention, Support


def test_dense_layer_is_timms_attention():
    theirs = Attention(24, num_heads=4, qkv_bias=True)
    ours = SelfAttention(24, 4, partial(Support.dense, 4))
    ours.load_state_dict(theirs.state_dict())
    x = torch.randn(2, 11, 24)
    torch.testing.assert_close(ours(x), theirs(x), atol=1e-6, rtol=1e-5)


def test_one_layer_serves_any_number_of_tokens():
    layer = SelfAttention(16, 2, partial(Support.fibottention, 2))
    for n in (1, 7, 50):
        assert layer(torch.randn(1, 1 + n, 16)).shape == (1, 1 + n, 16)
        assert layer.support_for(n) == Support.fibottention(2, n)


def test_repr_shows_the_support():
    shown = repr(SelfAttention(16, 2, Support.fibottention(2, 50)))
    assert "num_heads=2" in shown
    assert "density=" in shown


def test_attention_dropout_acts_in_training_only():
    layer = SelfAttention(16, 2, Support.fibottention(2, 50), attn_drop=0.5)
    x = torch.randn(1, 51, 16)
    assert not torch.equal(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: SelfAttention(100, 12, Support.fibottention(12, 9)), "dim=100, num_heads=12"),
        (lambda: SelfAttention(24, 12, Support.fibottention(6, 9)), "num_heads=12"),
        (lambda: SelfAttention(24, 6, Support.fibottention(6, 9, num_prefix_tokens=0)), "num_prefix_tokens=1"),
        (lambda: SelfAttention(24, 6, Support.fibottention(6, 9))(torch.randn(1, 5, 24)), "1 \\+ 9"),
    ],
)
def test_bad_arguments_are_shown(make, shown):
    with pytest.raises(ValueError, match=shown):
        make()
