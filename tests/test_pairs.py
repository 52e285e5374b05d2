"""Which combinations of parameters the fast suite runs."""

from itertools import combinations, product

from tests.pairs import every_pair, every_value

AXES = ("abc", [1, 2], [True, False], "xyz")


def fast(params):
    return [param.values for param in params if not param.marks]


def test_every_pair_is_fast_and_every_combination_there():
    params = every_pair(*AXES)
    assert [param.values for param in params] == list(product(*AXES))
    for i, j in combinations(range(len(AXES)), 2):
        assert {(values[i], values[j]) for values in fast(params)} == set(product(AXES[i], AXES[j]))
    assert len(fast(params)) <= 11  # of 36; at least nine are needed


def test_every_value_is_fast_and_every_combination_there():
    params = every_value(*AXES)
    assert [param.values for param in params] == list(product(*AXES))
    for i, axis in enumerate(AXES):
        assert {values[i] for values in fast(params)} == set(axis)
    assert len(fast(params)) == 3


def test_all_pairs_of_two_axes_and_all_values_of_one_are_fast():
    assert fast(every_pair("ab", "xyz")) == list(product("ab", "xyz"))
    assert fast(every_pair("ab")) == [("a",), ("b",)]
