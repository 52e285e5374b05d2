"""Probes of features: votes of neighbours against a plain reference, and the conditions of a best linear classifier."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import videofib.metrics.probe
from videofib.metrics.probe import STRENGTHS, first_best, folds, linear_probe, linear_probes, neighbour_votes


def votes_by_hand(train, labels, test, num_classes, k, temperature):
    """One video and one neighbour after another; neighbours that are equally near vote in their order."""
    votes = [[0.0] * num_classes for _ in test]
    for row, video in enumerate(test):
        near = []
        for index, other in enumerate(train):
            norms = math.sqrt(sum(a * a for a in video)) * math.sqrt(sum(b * b for b in other))
            near.append((-sum(a * b for a, b in zip(video, other, strict=True)) / norms, index))
        for similarity, index in sorted(near)[:k]:
            votes[row][labels[index]] += math.exp(-similarity / temperature)
    return votes


@pytest.mark.parametrize(
    ("rows", "k", "classes"), [(50, 20, 3), (7, 20, 3), (1, 20, 1), (9, 1, 4), (30, 30, 1), (5, 4, 9)]
)
@pytest.mark.parametrize("temperature", [0.07, 1.0])
def test_votes_are_those_of_the_reference(rows, k, classes, temperature, monkeypatch):
    monkeypatch.setattr(videofib.metrics.probe, "_AT_ONCE", 2 * rows)  # two videos at a time
    torch.manual_seed(rows)
    train, test = torch.randn(rows, 5), torch.randn(7, 5)
    labels = torch.randint(classes, (rows,))
    found = neighbour_votes(train, labels, test, classes, k=k, temperature=temperature)
    expected = votes_by_hand(train.tolist(), labels.tolist(), test.tolist(), classes, k, temperature)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-9)


def test_of_equally_near_neighbours_the_first_vote():
    train = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [0.0, 2.0]])
    labels = torch.tensor([2, 1, 0, 0, 2])
    votes = neighbour_votes(train, labels, torch.tensor([[5.0, 0.0]]), 3, k=1, temperature=1.0)
    assert votes.tolist() == [[0.0, pytest.approx(math.e), 0.0]]
    votes = neighbour_votes(train, labels, torch.tensor([[5.0, 0.0]]), 3, k=2, temperature=1.0)
    assert votes.tolist() == [[pytest.approx(math.e), pytest.approx(math.e), 0.0]]
    assert first_best(votes).tolist() == [0]  # of classes with equally many votes, the first


def test_features_of_zeros_are_equally_near_to_all():
    train = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    votes = neighbour_votes(train, torch.tensor([0, 1]), torch.zeros(1, 2), 2, k=2, temperature=0.07)
    assert votes.tolist() == [[1.0, 1.0]]


def problem(rows=60, width=6, classes=3, noise=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(rows) % classes
    centres = torch.randn(classes, width, generator=generator)
    return 10 * (centres[labels] + noise * torch.randn(rows, width, generator=generator)) + 5, labels


@pytest.mark.parametrize("strength", [100.0, 1.0, 0.01, 1e-5])
def test_a_linear_probe_is_where_the_gradient_vanishes(strength):
    features, labels = problem()
    (probe,) = linear_probes(features, labels, 3, [strength])
    standard = (features - features.mean(dim=0)) / features.std(dim=0, correction=0)
    weight, bias = probe.weight.requires_grad_(), probe.bias.requires_grad_()
    loss = F.cross_entropy(standard.double() @ weight.T + bias, labels) + strength / 2 * weight.square().sum()
    for gradient in torch.autograd.grad(loss, [weight, bias]):
        assert gradient.abs().max() < 1e-5
    with torch.no_grad():
        torch.testing.assert_close(probe.logits(features), standard.double() @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_starting_from_a_stronger_penalty_changes_nothing():
    features, labels = problem()
    warm, (cold,) = linear_probes(features, labels, 3, [1.0, 0.01])[-1], linear_probes(features, labels, 3, [0.01])
    torch.testing.assert_close(warm.weight, cold.weight, rtol=0, atol=1e-4)


def test_rows_at_a_time_change_nothing(monkeypatch):
    features, labels = problem(rows=61)
    (expected,) = linear_probes(features, labels, 3, [0.01])
    monkeypatch.setattr(videofib.metrics.probe, "_ROWS", 7)
    (found,) = linear_probes(features, labels, 3, [0.01])
    for name in ("mean", "scale", "weight", "bias"):
        torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("width", [20, 200])
def test_probes_in_float32_are_as_good(width):
    """Also where some features vary a thousand times less than others, and where features outnumber videos."""
    features, labels = problem(rows=150, width=width, noise=2.5)
    features = features @ torch.diag(torch.logspace(0, -3, width)).flip(0)
    for exact, near in zip(
        linear_probes(features, labels, 3), linear_probes(features, labels, 3, exact=False), strict=True
    ):
        losses = []
        for probe in (exact, near):
            loss = F.cross_entropy(probe.logits(features), labels) + probe.strength / 2 * probe.weight.square().sum()
            losses.append(float(loss))
        assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-4)
        expected, found = exact.logits(features), near.logits(features)
        assert (expected - found).abs().max() < 0.05 * expected.abs().max()


def test_neighbours_that_are_equally_near_are_counted_in_their_order_among_others():
    """Some videos with a tie at the k-th place, some without, in one block."""
    torch.manual_seed(0)
    train = torch.randn(12, 4)
    train[5:9] = train[5]
    labels, test = torch.arange(12) % 5, torch.cat((torch.randn(6, 4), train[5:6] + 0.01, torch.zeros(1, 4)))
    for k in (1, 2, 3, 6):
        found = neighbour_votes(train, labels, test, 5, k=k, temperature=0.5)
        expected = votes_by_hand(train.tolist(), labels.tolist(), test[:7].tolist(), 5, k, 0.5)
        torch.testing.assert_close(found[:7], torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-9)


def test_the_strength_is_that_of_cross_validation():
    """Which matters for many useless features of few videos; where all strengths get all right, it is the strongest."""
    features, labels = problem(rows=40, width=200, noise=6.0)
    noisy = linear_probe(features, labels, 3)
    right = np.zeros(len(STRENGTHS), int)
    fold_of = torch.from_numpy(folds(labels.numpy(), 5))
    for fold in range(5):
        for index, strength in enumerate(STRENGTHS):
            (probe,) = linear_probes(features[fold_of != fold], labels[fold_of != fold], 3, [strength])
            right[index] += int((first_best(probe.logits(features[fold_of == fold])) == labels[fold_of == fold]).sum())
    assert noisy.strength == STRENGTHS[int(right.argmax())]
    assert len(set(right.tolist())) > 1
    easy, labels = problem(noise=0.01)
    assert linear_probe(easy, labels, 3).strength == STRENGTHS[0]


@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (2, 1), (2, 2), (6, 2), (4, 4), (12, 1), (11, 3)])
def test_few_videos_and_classes(rows, classes):
    features, labels = problem(rows, classes=classes, noise=0.01)
    features[:, 0] = 3.0  # the same for all: it has no scale
    probe = linear_probe(features, labels, classes)
    assert probe.weight.shape == (classes, 6)
    assert probe.logits(features).isfinite().all()
    assert torch.equal(first_best(probe.logits(features)), labels)


@pytest.mark.parametrize(("counts", "number"), [([10, 10], 5), ([7, 3, 1], 5), ([1, 1], 2), ([50], 5), ([1], 1)])
def test_folds_share_out_each_class(counts, number):
    labels = np.repeat(np.arange(len(counts)), counts)
    found = folds(labels, number)
    sizes = np.bincount(found, minlength=number)
    assert sizes.max() - sizes.min() <= 1
    for label, count in enumerate(counts):
        own = np.bincount(found[labels == label], minlength=number)
        assert own.max() == math.ceil(count / number)
    assert np.array_equal(found, folds(labels, number))
