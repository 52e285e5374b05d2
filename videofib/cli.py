"""The ``videofib`` command.

videofib prep ucf101 --videos UCF-101 --annotations ucfTrainTestlist --out data/ucf101
videofib run --cfg UCF101/TimeSformer_joint_fibottention_8x8_224 OUTPUT_DIR runs/mine
videofib report runs/mine
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence

from videofib import __version__
from videofib.parser import Parser
from videofib.signals import interrupted, sigint_deferred

# name -> what it does; the module of that name in videofib.commands has its main
COMMANDS = {
    "prep": "prepare a data set, or check or pack a prepared one",
    "configs": "list the configs that come with videofib, or print one",
    "doctor": "examine this machine: packages, devices, readers, backends, caches",
    "browse": "show clips as a config reads, crops and augments them",
    "bench": "measure the speed of sparse against dense attention on this machine",
    "profile": "count a model's parameters, multiply-adds and activations",
    "pretrain": "learn from videos without labels, before train",
    "train": "train",
    "test": "measure multi-view accuracy",
    "run": "train, then test",
    "predict": "name what is in videos, by a trained model",
    "explain": "show what a model looked at in a video",
    "heads": "measure what the attention heads of a model do",
    "features": "write the features of videos into a file",
    "probe": "measure how well features tell classes apart",
    "submit": "submit a run to a Slurm cluster",
    "report": "write the page of a run",
    "compare": "compare runs: figures, curves, settings, paired tests",
    "ensemble": "average the test scores of several runs",
    "convert": "convert weights to another project's layout",
    "export": "export a model as ONNX, as a torch program, or for transformers",
}


def main(argv: Sequence[str] | None = None) -> None:
    """Run ``videofib COMMAND ...``; ``argv`` is the command line without the program's name."""
    description = "Train and test video transformers with sparse attention, and prepare their data."
    name, options = choose("videofib", description, COMMANDS, argv)
    try:
        with sigint_deferred():
            command = importlib.import_module(f"videofib.commands.{name}")  # only this one, so that --help is quick
        command.main(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(interrupted(f"videofib {name}"))
    except BrokenPipeError:  # the reader, such as head, has closed the pipe; nothing may be flushed into it at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def choose(
    prog: str, description: str, choices: Mapping[str, str], argv: Sequence[str] | None
) -> tuple[str, list[str]]:
    """The name that ``argv`` begins with, one of ``choices`` (name -> what it does), and the words after it.

    Raises:
        SystemExit: 0 after --help, 2 after an unknown name, which is reported with the nearest known one.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    width = max(map(len, choices)) + 2
    parser = Parser(
        prog,
        usage=f"{prog} NAME ...; {prog} NAME --help lists its options",
        description=description,
        epilog="\n".join(["names:", *(f"  {name:<{width}}{what}" for name, what in choices.items())]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"videofib {__version__}")
    parser.add_argument("name", metavar="NAME", help="one of the names below")
    name = parser.parse_args(words[:1]).name
    if name not in choices:
        nearest = difflib.get_close_matches(name, choices, n=1, cutoff=0.5)
        advice = f"did you mean {nearest[0]!r}?" if nearest else f"expected one of {', '.join(choices)}"
        parser.error(f"unknown name {name!r}; {advice}")
    return name, words[1:]


if __name__ == "__main__":
    main()
