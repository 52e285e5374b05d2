"""``run_parallel`` on Ray: the same call, on this machine or on a cluster. Ray is imported only when it is used.

Items must be idempotent, since an item whose worker is lost is done again by another one, perhaps while the first still
writes. A preparation's are: a video is written under a temporary name and then renamed, and always has the same bytes.
On a cluster, the folders of videos and output must have the same paths on all nodes.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from videofib.prep.engines.parallel import WorkerDied

_ATTEMPTS = 4  # an item whose worker is lost this often is probably the cause
_LOG = logging.getLogger(__name__)


def run_on_ray(
    function: Callable[[Any], Any], items: Sequence[Any], jobs: int, *, address: str | None = None
) -> Iterator[tuple[int, Any]]:
    """Call ``function(item)`` for every item in Ray's workers; yield ``(index, result)`` as they finish.

    As ``run_parallel``, but an item whose worker is lost (killed, out of memory, its node gone) is done again, up to
    three times; then its result is a ``WorkerDied``.

    Args:
        function: a function at module level that the workers can import.
        items: its arguments; sent by pickle.
        jobs: items submitted to Ray at once, one core each; and the cores of a Ray that is started here.
        address: of a running cluster, as ``ray.init`` takes it (``auto``, ``host:6379``); None: the Ray that already
            runs in this process, or one that is started for the call.

    Raises:
        ValueError: ``jobs`` below 1.
        ConnectionError: no cluster at ``address``.
        ModuleNotFoundError: Ray is not installed.
    """
    import ray

    if jobs < 1:
        raise ValueError(f"jobs is {jobs}; it must be 1 or more")
    waiting = deque(enumerate(items))
    if not waiting:
        return
    lost: Counter[int] = Counter()
    with _ray(jobs, address):
        call = ray.remote(num_cpus=1, max_retries=0)(_call)
        running: dict = {}
        while waiting or running:
            while waiting and len(running) < jobs:
                index, item = waiting.popleft()
                running[call.remote(function, item)] = index
            (done,), _ = ray.wait(list(running), num_returns=1)
            index = running.pop(done)
            try:
                result = ray.get(done)
            except ray.exceptions.RayError as error:
                lost[index] += 1
                reason = type(error).__name__
                if lost[index] < _ATTEMPTS:
                    _LOG.warning("a Ray worker was lost (%s); its item %d is done again", reason, index)
                    waiting.append((index, items[index]))  # last: the cause may be over by then
                    continue
                result = WorkerDied(f"its Ray worker was lost {_ATTEMPTS} times ({reason})")
            yield index, result


@contextmanager
def _ray(jobs: int, address: str | None) -> Iterator[None]:
    """Ray for the duration of the block; a Ray that this process has started earlier keeps running."""
    import ray

    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a preparation sends no usage statistics
    here = {"num_cpus": jobs, "include_dashboard": False, "object_store_memory": 128 * 2**20}  # results are small
    options = {"address": address} if address else {"address": "local", **here}
    ray.init(**options, log_to_driver=False, logging_level="ERROR")
    try:
        yield
    finally:
        ray.shutdown()


def _call(function: Callable[[Any], Any], item: Any) -> Any:
    try:
        return function(item)
    except Exception as error:
        return error
