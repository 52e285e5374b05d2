"""Measure how well features tell classes apart, without training the model: neighbours, and a linear classifier.

videofib features --list train.csv --model runs/mine --out train.parquet
videofib features --list test.csv --model runs/mine --out test.parquet
videofib probe --train train.parquet --test test.parquet

The files are those of videofib features on lists with labels, of pooled features; several, such as those of shards, are
read together. Prints, with 95 % intervals, the top-1 accuracies on the test files of

  nearest neighbours   the --k nearest by cosine similarity s vote exp(s / --temperature) for their class, as for DINO
                       (arXiv 2104.14294)
  linear probe         logistic regression of standardised features; its L2 penalty is chosen by cross-validation on the
                       training files alone

Videos that could not be read are left out, and counted.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from videofib.parser import Parser
from videofib.printable import printable
from videofib.signals import sigint_deferred

_NEAREST, _TEMPERATURE = 20, 0.07  # of DINO


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.metrics.features import FeaturesError
        from videofib.run.probing import probe

    try:
        probe(args.train, args.test, k=args.k, temperature=args.temperature)
    except FeaturesError as error:
        raise SystemExit(f"error: {printable(error)}") from None


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib probe", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, metavar="FILE", help="features to learn from")
    parser.add_argument("--test", nargs="+", required=True, metavar="FILE", help="features to test")
    parser.add_argument("--k", type=int, default=_NEAREST, metavar="K", help=f"neighbours (default {_NEAREST})")
    parser.add_argument(
        "--temperature", type=float, default=_TEMPERATURE, metavar="T", help=f"of votes (default {_TEMPERATURE})"
    )
    args = parser.parse_args(argv)
    if args.k < 1:
        parser.error("--k must be at least 1")
    if not 0.01 <= args.temperature < float("inf"):
        parser.error("--temperature must be at least 0.01")
    return args
