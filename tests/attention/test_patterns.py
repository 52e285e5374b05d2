"""Patterns pair by pair against their definitions, and the counts that their papers state."""

import itertools

import pytest
import torch

from videofib.attention import Pattern, Support, fibottention_offsets, patterns


def patch_mask(pattern, head=0):
    p = pattern.num_prefix_tokens
    return pattern.to_mask()[head, p:, p:]


def by_definition(shape, allowed):
    """The mask of a function of two coordinates."""
    places = list(itertools.product(*map(range, shape)))
    return torch.tensor([[allowed(j, k) for k in places] for j in places])


@pytest.mark.parametrize("p", [0, 1, 3])
def test_mask_and_pattern_are_the_same_pairs(p):
    mask = torch.rand(3, 11, 11, generator=torch.Generator().manual_seed(0)) < 0.15
    mask[1] = mask[0]
    mask[:, 4] = False
    pattern = Pattern.from_mask(mask, p)
    expected = mask.clone()
    if p == 0:
        expected |= torch.eye(11, dtype=torch.bool) & ~mask.any(-1, keepdim=True)
    full = torch.nn.functional.pad(expected, (p, 0, p, 0), value=True)
    assert torch.equal(pattern.to_mask(), full)
    assert pattern.num_pairs() == full.sum()
    assert pattern.num_pairs(include_prefix=False) == expected.sum()
    assert pattern.density() == pytest.approx(expected.float().mean().item())
    assert len(pattern.cols) == full[[0, 2]].sum()  # heads 0 and 1 share their pairs
    for head in range(3):
        for key in range(11 + p):
            start, stop = pattern.keyptr[head, key : key + 2].tolist()
            queries = pattern.queries[start:stop]
            assert torch.equal(queries, full[head, :, key].nonzero().flatten())
            positions = pattern.rowptr[head, 0] + pattern.positions[start:stop]
            assert (pattern.cols[positions] == key).all()
            rows = torch.searchsorted(pattern.rowptr[head], positions, right=True) - 1
            assert torch.equal(rows, queries)


def test_equal_patterns_are_equal():
    support = Support.fibottention(3, 20)
    a, b = Pattern.from_support(support), Pattern.from_support(support)
    assert a == b
    assert hash(a) == hash(b)
    assert a is not b
    assert torch.equal(a.to_mask(), support.to_mask())
    assert a != Pattern.from_support(Support.fibottention(3, 20, num_prefix_tokens=2))
    assert a != Pattern.from_support(Support.fibottention(3, 20, w_max=9))
    assert a != "a pattern"
    assert "density=" in repr(a)


GRIDS = [
    ((7,), (2,), (2,)),
    ((3, 4), (1, 2), (1, 1)),
    ((3, 5, 4), (1, 2, 0), (1, 2, 1)),
    ((1, 4, 3), (9, 1, 1), (1, 1, 2)),
]


@pytest.mark.parametrize(("shape", "radius", "dilation"), GRIDS)
def test_grid_window(shape, radius, dilation):
    def allowed(j, k):
        steps = [divmod(abs(a - b), d) for a, b, d in zip(j, k, dilation, strict=True)]
        return all(rest == 0 and whole <= r for (whole, rest), r in zip(steps, radius, strict=True))

    found = patterns.grid_window(2, shape, radius=radius, dilation=dilation)
    assert torch.equal(patch_mask(found, 1), by_definition(shape, allowed))


def test_ends_of_lines_are_no_neighbours():
    mask = patch_mask(patterns.grid_window(1, (3, 4), radius=(0, 1)))
    assert mask[2, 3]
    assert not mask[3, 4]
    assert not mask[4, 3]


def natten_keys(i, length, kernel, dilation, causal):
    """The keys of query i along one axis: its residue class, and the window in it."""
    members = [x for x in range(length) if x % dilation == i % dilation]
    place = members.index(i)
    if causal:
        return members[max(0, place - kernel + 1) : place + 1]
    start = min(max(0, place - kernel // 2), len(members) - kernel)
    return members[start : start + kernel]


NATTEN = [
    ((9,), (4,), (2,), (False,)),
    ((5, 6), (3, 2), (1, 3), (False, True)),
    ((4, 3, 5), (2, 3, 3), (2, 1, 1), (True, False, False)),
    ((1, 3, 3), (1, 3, 3), (1, 1, 1), (False, False, False)),
]


@pytest.mark.parametrize(("shape", "kernel", "dilation", "causal"), NATTEN)
def test_neighbourhood(shape, kernel, dilation, causal):
    def allowed(j, k):
        axes = zip(j, k, shape, kernel, dilation, causal, strict=True)
        return all(b in natten_keys(a, *numbers) for a, b, *numbers in axes)

    found = patterns.neighbourhood(2, shape, kernel=kernel, dilation=dilation, causal=causal)
    assert torch.equal(patch_mask(found), by_definition(shape, allowed))


@pytest.mark.parametrize("dilation", [(1, 1, 1), (2, 1, 2)])
def test_every_query_has_the_same_number_of_neighbours(dilation):
    found = patterns.neighbourhood(1, (7, 4, 8), kernel=(3, 4, 2), dilation=dilation)
    assert set(patch_mask(found).sum(1).tolist()) == {3 * 4 * 2}


def test_random_has_its_density_and_is_the_same_again():
    found = patterns.random(3, 80, keep=0.1, seed=5)
    assert found.density() == pytest.approx(0.1, abs=0.01)
    assert found == patterns.random(3, 80, keep=0.1, seed=5)
    assert found not in [
        patterns.random(3, 80, keep=0.1, seed=4),
        patterns.random(3, 80, keep=0.1, seed=5, layer_index=1),
    ]
    masks = found.to_mask()
    assert not torch.equal(masks[0], masks[1])
    assert patterns.random(1, 9, keep=1.0).density() == 1


def test_random_numbers_are_those_of_any_machine():
    found = patterns.random(1, 6, keep=0.2, seed=7, num_prefix_tokens=0)
    assert found.pair_numbers(0).tolist() == [3, 4, 5, 7, 14, 18, 20, 21, 22, 26, 27, 28, 29, 32]


@pytest.mark.parametrize(("radius", "num_random", "num_global"), [(1, 2, 0), (0, 3, 2), (2, 0, 1), (3, 50, 0)])
def test_bigbird(radius, num_random, num_global):
    n = 17
    found = patterns.bigbird(3, n, radius=radius, num_random=num_random, num_global=num_global, seed=1)
    fixed = by_definition((n,), lambda j, k: abs(j[0] - k[0]) <= radius or min(*j, *k) < num_global)
    masks = [patch_mask(found, head) for head in range(3)]
    for mask in masks:
        assert (mask | ~fixed).all()
        expected = (fixed.sum(1) + num_random).clamp_max(n)
        assert torch.equal(mask.sum(1), expected)
    if 0 < num_random < n:
        assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("distinct", [False, True])
def test_sparse_fixed(distinct, symmetric):
    n, length, summary, heads = 23, 5, 3, 2
    found = patterns.sparse_fixed(
        heads, n, length=length, num_summary=summary, distinct_heads=distinct, symmetric=symmetric
    )
    columns = [{2}, {3, 4}] if distinct else [{2, 3, 4}] * 2

    for head in range(heads):

        def sees(j, k, mine=columns[head]):
            return j // length == k // length or (k // length < j // length and k % length in mine)

        def allowed(j, k):
            return sees(*j, *k) or (symmetric and sees(*k, *j))

        assert torch.equal(patch_mask(found, head), by_definition((n,), allowed))


def test_last_columns_are_taken_in_turn_by_more_heads():
    found = patterns.sparse_fixed(5, 9, length=3, num_summary=2, distinct_heads=True)
    masks = [patch_mask(found, head) for head in range(5)]
    assert torch.equal(masks[0], masks[2])
    assert torch.equal(masks[1], masks[3])
    assert not torch.equal(masks[0], masks[1])


@pytest.mark.parametrize("n", [1, 2, 14, 31])
def test_cross_diagonal(n):
    found = patterns.cross_diagonal(3, n)
    for head, offsets in enumerate(fibottention_offsets(3, n)):
        expected = by_definition((n,), lambda j, k, offsets=offsets: abs(j[0] + k[0] - n + 1) in offsets)
        assert torch.equal(patch_mask(found, head), expected)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Pattern([], 4), "0 heads"),
        (lambda: Pattern([torch.tensor([16])], 4), "0 .. 3"),
        (lambda: patterns.grid_window(1, (3, 3), radius=(1,)), "radius=\\(1,\\)"),
        (lambda: patterns.grid_window(1, (3,), radius=(1,), dilation=(0,)), "dilation=\\(0,\\)"),
        (lambda: patterns.neighbourhood(1, (5,), kernel=(3,), dilation=(2,)), "kernel=\\(3,\\), dilation=\\(2,\\)"),
        (lambda: patterns.random(1, 5, keep=0.0), "keep=0.0"),
        (lambda: patterns.bigbird(1, 5, radius=1, num_random=1, num_global=6), "num_global=6"),
        (lambda: patterns.sparse_fixed(1, 5, length=3, num_summary=4), "num_summary=4"),
    ],
)
def test_bad_arguments_are_shown(make, message):
    with pytest.raises(ValueError, match=message):
        make()
