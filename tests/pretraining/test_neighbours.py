"""Which tokens are next to which, and which of them are most alike."""

from itertools import product

import pytest
import torch

from videofib.pretraining.neighbours import NONE, nearest, neighbour_table

GRIDS = [(1, 3, 4), (3, 3, 5), (2, 1, 1), (1, 2, 2)]


def by_hand(grid, kind, number):
    """The neighbours of a token that are on the grid, by comparing all positions."""
    positions = list(product(*map(range, grid)))
    own = positions[number]
    return {
        i
        for i, other in enumerate(positions)
        if i != number
        and max(abs(a - b) for a, b in zip(own, other, strict=True)) == 1
        and (kind == "space_time" or own[0] == other[0])
    }


@pytest.mark.parametrize("kind", ["space", "space_time"])
@pytest.mark.parametrize("grid", GRIDS)
def test_neighbours_never_wrap_around_an_edge(grid, kind):
    table = neighbour_table(grid, kind)
    for number, row in enumerate(table.tolist()):
        found = [i for i in row if i != NONE]
        assert len(found) == len(set(found))
        assert set(found) == by_hand(grid, kind, number)


def test_corners_have_three_and_the_middle_has_eight():
    counts = (neighbour_table((1, 3, 3), "space") != NONE).sum(1)
    assert counts.view(3, 3).tolist() == [[3, 5, 3], [5, 8, 5], [3, 5, 3]]
    counts = (neighbour_table((3, 3, 3), "space_time") != NONE).sum(1)
    assert (counts[0], counts[13]) == (7, 26)


def test_as_released_a_corner_borders_on_the_opposite_ones():
    row = neighbour_table((1, 4, 5), "space", wrap=True)[0].tolist()
    assert sorted(row) == sorted([19, 15, 16, 4, 1, 9, 5, 6])


def test_unknown_neighbours_are_refused():
    with pytest.raises(ValueError, match="unknown neighbours 'time'; known: space, space_time"):
        neighbour_table((1, 2, 2), "time")


def test_the_nearest_are_the_most_similar_neighbours():
    torch.manual_seed(0)
    x, grid = torch.randn(2, 45, 6), (3, 3, 5)
    table = neighbour_table(grid, "space_time")
    chosen, exists = nearest(x, table, 9)
    for clip in range(2):
        for number in range(45):
            near = sorted(by_hand(grid, "space_time", number))
            similarity = torch.cosine_similarity(x[clip, number], x[clip, near], dim=1)
            expected = {near[i] for i in similarity.topk(min(9, len(near))).indices.tolist()}
            assert set(chosen[clip, number][exists[clip, number]].tolist()) == expected
    assert exists[0, 0].sum() == 7, "a corner has fewer than 9"
