"""Planted experts are found exactly, and nothing where there is nothing."""

import numpy as np
import pytest

from videofib.report.heads.fields import class_means, clusters, fields, strong
from videofib.report.heads.found import removal
from videofib.report.heads.specialisation import (
    FIGURES,
    Readout,
    accuracy,
    compared,
    label_sets,
    null_draws,
    off_diagonal_mean,
    pairwise_cka,
    pairwise_jaccard,
    recalls,
    specialisation,
)

HEADS = [[0, 3], [1, 5], [2, 4]]  # the labels that each of three heads is an expert for
GROUPS = np.arange(18).reshape(3, 6)


def planted(noise=0.0, seed=0):
    """Head h of six nodes: its first three nodes fire for its first label, the others for its second."""
    generator = np.random.default_rng(seed)
    labels = np.repeat(np.arange(6), 20)
    values = noise * generator.standard_normal((120, 18))
    weight = np.zeros((6, 18))
    for group, own in zip(GROUPS, HEADS, strict=True):
        for nodes, label in zip(np.split(group, 2), own, strict=True):
            values[np.ix_(labels == label, nodes)] += 1
            weight[label, nodes] = 1
    return Readout(values, values - values.mean(axis=0), labels, weight, np.zeros(6))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_planted_experts_are_recovered(noise):
    readout = planted(noise)
    recall = recalls(readout, GROUPS)
    assert accuracy(readout) == 100
    means = readout.means()
    sets = label_sets(readout, GROUPS, means)
    for head, own in enumerate(HEADS):
        assert (recall[head, own] == 1).all()
        assert sets[head].nonzero()[0].tolist() == sorted(own)
        found = clusters(strong(fields(readout.weight, means, GROUPS))[head])
        assert found.members == [[label] for label in sorted(own)]
        assert found.noise == 0
    if noise:  # without noise all fields of a foreign label are 0, and the first label wins
        assert [recall[:, label].argmax() for label in (0, 3, 1, 5, 2, 4)] == [0, 0, 1, 1, 2, 2]


def test_planted_experts_are_not_what_random_groups_are():
    readout = planted(0.3)
    found = compared(specialisation(readout, GROUPS), null_draws(readout, 3, 400, seed=1))
    assert found["margin"].value > found["margin"].high
    assert found["entropy"].value < found["entropy"].low
    assert found["label_overlap"].value == 0 < found["label_overlap"].mean  # as of many random groups, too
    assert found["cka"].value < found["cka"].low
    assert all(found[name].p_value < 0.02 for name in ("margin", "entropy", "cka"))


def test_nothing_is_found_where_heads_are_random_groups():
    """Nodes that are given to heads at random: p-values are spread evenly, for every figure."""
    p_values = {name: [] for name in FIGURES}
    for seed in range(40):
        readout = planted(0.5, seed)
        groups = np.random.default_rng(100 + seed).permutation(18).reshape(3, 6)
        for name, one in compared(specialisation(readout, groups), null_draws(readout, 3, 100, seed)).items():
            p_values[name].append(one.p_value)
    for name, values in p_values.items():
        assert sum(value <= 0.05 for value in values) <= 6, name  # of 40, 2 are expected; 7 have probability 0.003
        assert np.mean(values) > 0.3, name


def test_fields_are_the_mean_over_videos():
    generator = np.random.default_rng(2)
    values, labels, weight = generator.standard_normal((30, 8)), np.arange(30) % 5, generator.standard_normal((5, 8))
    groups = np.array([[0, 5], [7, 2]])
    found = fields(weight, class_means(values, labels, 5), groups)
    for g, group in enumerate(groups):
        for label in range(5):
            expected = np.mean([weight[:, group] @ row[group] for row in values[labels == label]], axis=0)
            np.testing.assert_allclose(found[g, :, label], expected, atol=1e-12)
    everything = fields(weight, class_means(values, labels, 5), np.arange(8)[None])
    parts = fields(weight, class_means(values, labels, 5), np.arange(8).reshape(4, 2))
    np.testing.assert_allclose(parts.sum(axis=0), everything[0], atol=1e-12)


def test_clusters_by_hand():
    """Labels 0, 1, 3 are one full block, 4 stands alone, 2 has no field of its own."""
    entries = np.zeros((5, 5), bool)
    entries[np.ix_([0, 1, 3], [0, 1, 3])] = True
    entries[4, 4] = entries[2, 4] = entries[4, 0] = True
    found = clusters(entries)
    assert found.members == [[0, 1, 3], [4]]
    assert (found.signal, found.noise) == (10, 2)
    assert found.labels == [0, 1, 3, 4]


def test_clusters_need_full_blocks_and_both_directions():
    """A chain 0-1-2: of 0 and 2 no cluster; a field in one direction only is noise."""
    chain = np.eye(3, dtype=bool)
    chain[0, 1] = chain[1, 0] = chain[1, 2] = chain[2, 1] = True
    found = clusters(chain)
    assert found.members == [[0, 1], [2]]
    assert (found.signal, found.noise) == (5, 2)
    one_way = np.array([[True, True], [False, True]])
    assert clusters(one_way).members == [[0], [1]]
    assert clusters(one_way).noise == 1


def test_clusters_without_strong_fields_and_negative_ones():
    assert not strong(-np.ones((2, 2))).any()
    assert not strong(np.zeros((2, 2))).any()
    assert strong(np.array([[4.0, -9.0], [2.0, 2.1]])).tolist() == [[True, False], [False, True]]
    empty = clusters(np.zeros((2, 2), bool))
    assert (empty.members, empty.signal, empty.noise) == ([], 0, 0)


def test_cka_is_that_of_the_definition():
    generator = np.random.default_rng(4)
    values = generator.standard_normal((50, 12))
    values[:, 4:8] = values[:, :4] @ np.linalg.qr(generator.standard_normal((4, 4)))[0]  # rotated: alike
    values -= values.mean(axis=0)
    groups = np.arange(12).reshape(3, 4)
    found = pairwise_cka(values, groups)
    assert found[0, 1] == pytest.approx(1)
    a, b = values[:, groups[0]], values[:, groups[2]]
    expected = np.linalg.norm(a.T @ b) ** 2 / np.linalg.norm(a.T @ a) / np.linalg.norm(b.T @ b)
    assert found[0, 2] == pytest.approx(expected)
    assert found[0, 2] < 0.5
    np.testing.assert_allclose(np.diag(found), 1)


def test_jaccard_and_means_of_pairs():
    sets = np.array([[True, True, False], [False, True, True], [False, False, False]])
    np.testing.assert_allclose(pairwise_jaccard(sets), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]])
    assert off_diagonal_mean(np.array([[5.0, 1], [3, 5]])) == 2
    assert np.isnan(off_diagonal_mean(np.ones((1, 1))))


def test_labels_without_videos_are_left_out():
    readout = planted(0.2)
    kept = readout.labels != 3
    fewer = Readout(readout.values[kept], readout.centred[kept], readout.labels[kept], readout.weight, readout.bias)
    recall = recalls(fewer, GROUPS)
    assert np.isnan(recall[:, 3]).all()
    assert np.isfinite(np.delete(recall, 3, axis=1)).all()
    assert all(np.isfinite(value) for value in specialisation(fewer, GROUPS).values())


def test_one_head_has_no_pairs():
    readout = planted(0.2)
    found = compared(specialisation(readout, np.arange(18)[None]), null_draws(readout, 1, 10, seed=0))
    assert found["alone"].value == pytest.approx(found["alone"].mean)
    assert np.isnan(found["cka"].value)
    assert found["cka"].p_value == 1


def test_removal_counts_gains_and_losses():
    full = np.log([[0.7, 0.3], [0.6, 0.4], [0.2, 0.8], [0.4, 0.6]])
    ablated = np.log([[0.4, 0.6], [0.6, 0.4], [0.3, 0.7], [0.7, 0.3]])
    found = removal(full, ablated, np.array([0, 0, 1, 0]))
    assert (found.accuracy, found.change) == (75, 0)
    assert found.p_value == 1
    assert found.log_probability == pytest.approx(np.log([0.4 / 0.7, 1, 0.7 / 0.8, 0.7 / 0.4]).mean())
    np.testing.assert_allclose(found.recall, [0, 0])
    assert found.interval[0] < 0 < found.interval[1]
