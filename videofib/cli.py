"""The ``videofib`` command.

videofib prep ucf101 --videos UCF-101 --annotations ucfTrainTestlist --out data/ucf101
videofib prep verify data/ucf101
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Sequence

# name -> what it does; the module of that name in videofib.prep.sets has its main
DATA_SETS = {
    "ucf101": "UCF101",
    "hmdb51": "HMDB51",
    "kinetics": "Kinetics-400, -600 or -700",
    "ssv2": "Something-Something v2",
    "diving48": "Diving48",
    "ntu": "NTU RGB+D 60 or 120",
    "smarthome": "Toyota Smarthome, trimmed",
    "nucla": "Northwestern-UCLA",
    "howto100m": "HowTo100M, by category",
    "folder": "your own folder of classes",
    "motion": "writes the motion data set of the demo",
}
# the same for what is done with a prepared folder; modules of videofib.prep
AFTERWARDS = {
    "verify": "is a prepared folder still what its manifest says?",
    "shards": "packs a prepared folder into tar files",
    "leaks": "recordings and pictures that are in both training and test",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``videofib prep <name> ...``; ``arguments`` are those of the command line by default."""
    names = "".join(f"  {name:<10}{what}\n" for name, what in (DATA_SETS | AFTERWARDS).items())
    parser = argparse.ArgumentParser(
        "videofib",
        usage="videofib prep NAME [options]; videofib prep NAME --help tells them",
        description="Prepare a data set (checked, resized, seekable videos, list files, a manifest), or check one.",
        epilog=f"names:\n{names}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=("prep",), help="prepare a data set or check one")
    parser.add_argument("name", choices=DATA_SETS | AFTERWARDS, metavar="NAME", help="which one; see below")
    parser.add_argument("options", nargs=argparse.REMAINDER, help="its own options")
    args = parser.parse_args(arguments)
    package = "videofib.prep.sets" if args.name in DATA_SETS else "videofib.prep"
    module = importlib.import_module(f"{package}.{args.name}")  # one alone, so that --help is quick
    try:
        module.main(args.options, f"videofib prep {args.name}")
        sys.stdout.flush()
    except BrokenPipeError:  # whoever reads, such as head, has seen enough; nothing more may go there, at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


if __name__ == "__main__":
    main()
