"""Which processes share what."""

from __future__ import annotations

from dataclasses import dataclass

import torch.distributed as dist

from videofib.distributed.processes import TIMEOUT, rank, world_size


@dataclass(frozen=True)
class ClipSharing:
    """Which processes share each clip's tokens (context parallelism): neighbours in rank. By default none do.

    Attributes:
        ranks: processes that share a clip.
        group: those that share this one's clips, on its device; None where it is alone.
        host_group: the same processes, exchanging what lies in main memory.
    """

    ranks: int = 1
    group: dist.ProcessGroup | None = None
    host_group: dist.ProcessGroup | None = None

    @property
    def data_rank(self) -> int:
        """Which share of the data is this process's."""
        return rank() // self.ranks

    @property
    def data_world(self) -> int:
        """How many shares of the data there are."""
        return world_size() // self.ranks

    @property
    def first_rank(self) -> int:
        """The first of the processes that share clips with this one."""
        return rank() // self.ranks * self.ranks

    @property
    def is_first(self) -> bool:
        return rank() == self.first_rank

    def one_each(self, values: list) -> list:
        """Of the values of all processes, those of the first of each group: one for each share of the data."""
        return values[:: self.ranks]


NOT_SHARED = ClipSharing()


def share_clips(ranks: int) -> ClipSharing:
    """Let every ``ranks`` neighbours share clips. All processes call it.

    Raises:
        ValueError: the number of processes does not divide by it.
    """
    if world_size() % ranks:
        raise ValueError(f"{world_size()} processes do not divide into groups of {ranks}")
    if ranks == 1:
        return NOT_SHARED
    group, _ = dist.new_subgroups(group_size=ranks, timeout=TIMEOUT)
    host_group, _ = dist.new_subgroups(group_size=ranks, timeout=TIMEOUT, backend="gloo")
    return ClipSharing(ranks, group, host_group)
