"""What torchrun has set, for those who need to know before torch is imported."""

from __future__ import annotations

import os


def torchrun_processes() -> tuple[int, int] | None:
    """(processes on this node, nodes) where torchrun started this process, else None."""
    if not {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys():
        return None
    world = int(os.environ["WORLD_SIZE"])
    local = int(os.environ.get("LOCAL_WORLD_SIZE", world))
    return local, world // local
