"""Supports: the mask by brute force, the published densities, identity and errors."""

import random

import pytest
import torch

from videofib.attention import Support

AWKWARD = [
    Support.fibottention(12, 196),
    Support.fibottention(3, 1),
    Support.fibottention(4, 7, num_prefix_tokens=0),
    Support.fibottention(5, 13, num_prefix_tokens=5, variant="modified"),
    Support(((), (0, 3), (2, 50)), 9, 0),
    Support(((), (8,)), 9, 2),
    Support.dense(2, 6, num_prefix_tokens=0),
]


def brute_force_mask(support: Support) -> torch.Tensor:
    """The definition, pair by pair."""
    p, n = support.num_prefix_tokens, support.num_tokens
    mask = torch.zeros(support.num_heads, p + n, p + n, dtype=torch.bool)
    for head, offsets in enumerate(support.offsets):
        for j in range(p + n):
            for k in range(p + n):
                mask[head, j, k] = j < p or k < p or abs(j - k) in offsets
            if not mask[head, j].any():
                mask[head, j, j] = True
    return mask


@pytest.mark.parametrize("support", AWKWARD, ids=repr)
def test_mask_is_the_definition(support):
    assert torch.equal(support.to_mask(), brute_force_mask(support))


@pytest.mark.parametrize("support", AWKWARD, ids=repr)
def test_figures_are_those_of_the_mask(support):
    p, mask = support.num_prefix_tokens, support.to_mask()
    assert support.num_pairs() == mask.sum()
    assert support.density(include_prefix=True) == pytest.approx(mask.double().mean().item())
    assert support.density() == pytest.approx(mask[:, p:, p:].double().mean().item())
    if support.num_prefix_tokens:
        assert support.coverage() == pytest.approx(mask[:, p:, p:].any(0).double().mean().item())


def test_published_densities():
    support = Support.fibottention(12, 196, w_min=5, w_max=65)
    assert f"{support.density():.2%}" == "1.99%"  # the paper's 98.01 % pruned
    assert f"{support.density(include_prefix=True):.2%}" == "2.99%"
    assert f"{Support.fibottention(12, 196, variant='modified').density():.2%}" == "3.83%"
    assert f"{Support.fibottention(12, 1568).density():.2%}" == "0.71%"


def test_overlap_counts_shared_offsets():
    assert torch.equal(Support(((1, 2), (2, 3, 4), (5,)), 9).overlap(), torch.tensor([[2, 1, 0], [1, 3, 0], [0, 0, 1]]))
    overlap = Support.fibottention(12, 1568).overlap()
    assert overlap.sum() == overlap.diagonal().sum()


def test_every_mask_is_symmetric():
    for support in AWKWARD:
        mask = support.to_mask()
        assert torch.equal(mask, mask.transpose(1, 2))


def test_per_layer_order_is_the_seeded_shuffle_and_leaves_the_global_generator_alone():
    state = random.getstate()
    shuffled = Support.fibottention(6, 196, head_order="per_layer", layer_index=3).offsets
    assert random.getstate() == state
    expected = list(Support.fibottention(6, 196).offsets)
    random.Random(3).shuffle(expected)
    assert list(shuffled) == expected


def test_equal_supports_are_one_cache_entry():
    a, b = Support.fibottention(4, 50), Support.fibottention(4, 50)
    assert a == b
    assert len({a, b, Support.dense(4, 50), Support.fibottention(4, 51)}) == 3
    with pytest.raises(AttributeError):
        a.num_tokens = 3


@pytest.mark.parametrize(
    ("make", "shown"),
    [
        (lambda: Support.fibottention(2, 8, head_order="shuffled"), "'shuffled'"),
        (lambda: Support(((3, 1),), 8), r"\(3, 1\)"),
        (lambda: Support(((-1,),), 8), r"-1"),
        (lambda: Support((), 8), "at least one head"),
        (lambda: Support(((1,),), 0), "num_tokens=0"),
        (lambda: Support(((1,),), 4, -1), "num_prefix_tokens=-1"),
    ],
)
def test_bad_arguments_are_shown(make, shown):
    with pytest.raises(ValueError, match=shown):
        make()
