"""Deletion curves of a model whose probability is known."""

import pytest
import torch

from videofib.models.explain import area, deletion_curve

GRID = (2, 2, 3)  # of clips of 4 frames, 8 x 12 pixels
HOT = 7  # frame 1, row 0, column 1: the only patch that matters


def test_the_probability_falls_with_the_patch_that_matters():
    clip, seen = torch.rand(3, 4, 8, 12), []

    def probability(clips):
        seen.append(clips)
        return (clips[:, :, 2:4, 0:4, 4:8] == clip[:, 2:4, 0:4, 4:8]).flatten(1).all(1).double()

    order = torch.tensor([0, 1, 2, HOT, 3, 4, 5, 6, 8, 9, 10, 11])
    assert deletion_curve(probability, clip, order, GRID, [0.0, 0.25, 1 / 3, 1.0]).tolist() == [1, 1, 0, 0]
    untouched, _, masked, grey = seen[0]
    mean = clip.mean((1, 2, 3), keepdim=True)
    assert torch.equal(untouched, clip)
    assert torch.equal(masked[:, 2:4, 0:4, 4:8], mean.expand(3, 2, 4, 4))
    assert torch.equal(masked[:, :2, :4], mean.expand(3, 2, 4, 12))  # patches 0 to 2
    assert torch.equal(masked[:, :, 4:], clip[:, :, 4:])  # rows that nothing was removed from
    assert torch.equal(grey, mean.expand_as(clip))


def test_many_fractions_come_in_several_passes():
    sizes = []

    def count(clips):
        sizes.append(len(clips))
        return torch.ones(len(clips))

    found = deletion_curve(count, torch.rand(3, 4, 8, 12), torch.randperm(12), GRID, torch.linspace(0, 1, 70).tolist())
    assert found.shape == (70,)
    assert sizes == [32, 32, 6]


def test_area_by_trapezoids():
    assert area([0.0, 0.5, 1.0], torch.tensor([1.0, 0.5, 0.0])) == 0.5
    assert area([0.0, 0.1, 1.0], torch.tensor([1.0, 0.0, 0.0])) == pytest.approx(0.05)


def test_a_grid_that_does_not_divide_the_clip_is_refused():
    with pytest.raises(ValueError, match=r"\(2, 2, 3\) does not divide clips of \(4, 8, 10\)"):
        deletion_curve(len, torch.rand(3, 4, 8, 10), torch.arange(12), GRID, [0.5])
