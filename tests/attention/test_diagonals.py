"""Other patterns of diagonals, pair by pair, and the choice of a parameter by its density."""

import pytest
import torch

from videofib.attention import Support
from videofib.attention.matching import nearest


def pairs(support, head):
    """Patch pairs (query, key) of the mask."""
    p = support.num_prefix_tokens
    return {tuple(pair) for pair in support.to_mask()[head, p:, p:].nonzero().tolist()}


def where(num_tokens, allowed):
    return {(j, k) for j in range(num_tokens) for k in range(num_tokens) if allowed(abs(j - k))}


@pytest.mark.parametrize("num_tokens", [1, 4, 13])
@pytest.mark.parametrize(
    ("radius", "dilation", "include_self"), [(2, 1, True), (2, 3, True), (1, 2, False), (0, 1, True)]
)
def test_window(num_tokens, radius, dilation, include_self):
    found = Support.window(2, num_tokens, radius=radius, dilation=dilation, include_self=include_self)
    distances = {dilation * i for i in range(0 if include_self else 1, radius + 1)}
    assert pairs(found, 0) == pairs(found, 1) == where(num_tokens, lambda distance: distance in distances)


def test_dilated_has_a_dilation_for_each_head():
    found = Support.dilated(20, radius=2, dilations=(1, 2, 4, 15))
    assert found.offsets == ((0, 1, 2), (0, 2, 4), (0, 4, 8), (0, 15))


@pytest.mark.parametrize("num_tokens", [1, 5, 23])
def test_strided(num_tokens):
    def far(distance):
        return distance % 4 == 0

    def near(distance):
        return distance <= 2

    both = Support.strided(3, num_tokens, stride=4, radius=2)
    assert all(pairs(both, head) == where(num_tokens, lambda d: near(d) or far(d)) for head in range(3))
    split = Support.strided(3, num_tokens, stride=4, radius=2, split_heads=True)
    assert [pairs(split, head) for head in range(3)] == [where(num_tokens, f) for f in (near, far, near)]


def test_shared_is_the_first_head_of_fibottention():
    first = Support.fibottention(4, 50).offsets[0]
    assert Support.shared(4, 50).offsets == (first,) * 4 == ((1, 2, 3, 5),) * 4
    assert Support.shared(2, 50, offsets=(7, 0, 7)).offsets == ((0, 7),) * 2


def test_axial_time_is_the_same_place_in_every_frame():
    t, h, w = 3, 2, 4
    place = torch.arange(t * h * w) % (h * w)
    torch.testing.assert_close(
        Support.axial_time(2, (t, h, w), num_prefix_tokens=0).to_mask(), (place[:, None] == place).expand(2, -1, -1)
    )


@pytest.mark.parametrize("target", [0.0, 0.01, 0.034, 0.5, 1.0])
def test_nearest_density(target):
    def density(radius):
        return Support.window(2, 60, radius=radius).density()

    radii = range(1, 60)
    errors = [abs(density(radius) - target) for radius in radii]
    assert nearest(radii, density, target) == radii[errors.index(min(errors))]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Support.window(2, 9, radius=-1), "radius=-1"),
        (lambda: Support.window(2, 9, radius=1, dilation=0), "\\(0, 0\\)"),
        (lambda: Support.strided(2, 9, stride=0), "stride=0"),
        (lambda: Support.strided(1, 9, stride=2, split_heads=True), "num_heads=1"),
        (lambda: Support.shared(2, 9, offsets=()), "none"),
    ],
)
def test_bad_arguments_are_shown(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("num_tokens", [1, 2, 30, 196])
@pytest.mark.parametrize(
    ("name", "values", "make"),
    [
        ("radius", lambda n: range(1, max(n, 2)), lambda n, **number: Support.window(3, n, dilation=2, **number)),
        (
            "radius",
            lambda n: range(1, max(n, 2)),
            lambda n, **to: Support.dilated(n, dilations=(1, 2, 5), **to),
        ),
        ("stride", lambda n: range(2, max(n, 2) + 1), lambda n, **number: Support.strided(3, n, radius=1, **number)),
    ],
)
def test_matching_takes_the_density_nearest_to_fibottentions(num_tokens, name, values, make):
    target = Support.fibottention(3, num_tokens).density()
    errors = [abs(make(num_tokens, **{name: value}).density() - target) for value in values(num_tokens)]
    found = make(num_tokens, matching="fibottention")
    assert abs(found.density() - target) == min(errors)


def test_a_number_that_is_missing_is_named():
    with pytest.raises(ValueError, match="set radius, or matching='fibottention' for its density"):
        Support.window(2, 9)
    with pytest.raises(ValueError, match=r"set stride, or .* got stride=None, matching='dense'"):
        Support.strided(2, 9, matching="dense")
