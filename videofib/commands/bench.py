"""``videofib bench NAME ...``: measure the speed of sparse against dense attention on this machine."""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from videofib.cli import choose
from videofib.signals import sigint_deferred

# name -> what it measures; the module of that name in videofib.bench has its main(argv, prog)
BENCHMARKS = {
    "attention": "time and memory of sparse attention against dense attention",
    "model": "clips a second and memory of complete models, in inference or training",
}


def main(argv: Sequence[str] | None = None) -> None:
    name, words = choose("videofib bench", "Measure speed on this machine, as ratios in one run.", BENCHMARKS, argv)
    with sigint_deferred():
        module = importlib.import_module(f"videofib.bench.{name}")
    module.main(words, f"videofib bench {name}")
