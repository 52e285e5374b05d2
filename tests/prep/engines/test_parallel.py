"""A pool of processes that loses nothing but the item of a dying process."""

import pytest

from videofib.prep.engines.parallel import WorkerDied, run_parallel

# eval: a function that every process finds by name, so each item can do something else


def test_results_come_with_the_index_of_their_item():
    assert sorted(run_parallel(eval, ["1 + 1", "'a' * 3", "[]"], jobs=2)) == [(0, 2), (1, "aaa"), (2, [])]


def test_an_exception_is_a_result():
    results = dict(run_parallel(eval, ["1 / 0", "2"], jobs=1))
    assert isinstance(results[0], ZeroDivisionError)
    assert results[1] == 2


def test_a_dying_process_takes_only_its_own_item():
    items = ["1", "__import__('os').kill(__import__('os').getpid(), 9)", "__import__('os')._exit(7)", "4", "5"]
    results = dict(run_parallel(eval, items, jobs=2))
    assert {index: result for index, result in results.items() if index not in (1, 2)} == {0: 1, 3: 4, 4: 5}
    assert isinstance(results[1], WorkerDied)
    assert "SIGKILL" in str(results[1])
    assert "exit code 7" in str(results[2])


def test_no_items_and_no_jobs():
    assert list(run_parallel(eval, [], jobs=2)) == []
    with pytest.raises(ValueError, match="jobs is 0"):
        next(run_parallel(eval, ["1"], jobs=0))
