"""``videofib prep NAME``: prepare a data set, or check or pack a prepared one.

videofib prep ucf101 --videos UCF-101 --annotations ucfTrainTestlist --out data/ucf101
videofib prep verify data/ucf101
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence

from videofib.cli import choose

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
    "images": "pictures: your own folder of classes, CIFAR-10 or -100",
    "list": "videos, or segments of them, that lists of your own name",
    "motion": "generate the small motion data set of the demo",
}
# the same for what is done with a prepared folder; modules of videofib.prep.afterwards
AFTERWARDS = {
    "verify": "check a prepared folder against its manifest",
    "leaks": "list recordings and pictures that are in both training and test",
    "shards": "pack a prepared folder into tar files",
}


def main(argv: Sequence[str] | None = None) -> None:
    description = "Prepare a data set (checked, resized, seekable videos, list files, a manifest), or check one."
    name, options = choose("videofib prep", description, DATA_SETS | AFTERWARDS, argv)
    package = "sets" if name in DATA_SETS else "afterwards"
    importlib.import_module(f"videofib.prep.{package}.{name}").main(options, f"videofib prep {name}")
