"""The options of commands that use a saved model on videos. What is heavy is imported once they have been read."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from videofib.config import ConfigError
from videofib.data.errors import DecodeError, ManifestError
from videofib.data.segment import UNITS
from videofib.files import describe
from videofib.parser import Parser
from videofib.printable import printable
from videofib.run.precisions import PRECISION_TYPES
from videofib.signals import sigint_deferred
from videofib.starting import StartError

if TYPE_CHECKING:
    from videofib.run.saved_model import SavedModel

_FEW = 4  # videos that are read in this process: workers would take longer to start
_MOST_WORKERS = 8


def add_model_options(parser: Parser) -> None:
    """Add which model; ``--opts`` takes all words after it."""
    parser.add_argument("--model", required=True, metavar="FROM", help="a saved model")
    parser.add_argument("--checkpoint", choices=("newest", "best"), default="newest", help="of a run's folder")
    parser.add_argument("--part", metavar="NAME", help="which model of a file that holds several, such as teacher")
    parser.add_argument("--task", metavar="NAME", help="which task of a model of several")
    parser.add_argument(
        "--cfg", metavar="NAME_OR_FILE", help="the config of the model, where it is not saved with the weights"
    )
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="changes to the config, at the end"
    )


def add_options(parser: Parser, *, many: bool = True) -> None:
    """Add which model, on which views, and how.

    Args:
        many: whether many videos may be read, by workers, and computed in a precision.
    """
    parser.add_argument(
        "--views", nargs=2, type=int, metavar=("T", "S"), help="temporal clips and spatial crops (1 or 3)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu or cuda (default: a GPU where there is one)")
    if many:
        parser.add_argument(
            "--precision",
            choices=tuple(PRECISION_TYPES),
            default="fp32",
            help="in which the model computes; fp16 on a GPU alone",
        )
        parser.add_argument(
            "--compile", action="store_true", help="compile the model (torch.compile), which takes a minute or more"
        )
        parser.add_argument("--workers", type=int, metavar="N", help="processes that read videos; 0: this one")
    add_model_options(parser)


def add_list_options(parser: Parser, help: str) -> None:
    """Add ``--list``, and what its lines are."""
    parser.add_argument("--list", metavar="FILE", help=help)
    parser.add_argument(
        "--segments",
        choices=UNITS,
        default="",
        help="the lines of --list are segments, `path start end`, in this unit; a list with a header says so itself",
    )


def check_options(parser: Parser, args: argparse.Namespace) -> None:
    """Exit with one line where no video is named, or an option cannot be."""
    if not args.videos and not args.list:
        parser.error("name a video, or a list of them with --list")
    if getattr(args, "segments", "") and not args.list:
        parser.error("--segments is about the lines of --list")
    workers = getattr(args, "workers", None)
    if workers is not None and workers < 0:
        parser.error("--workers must not be negative")
    check_pairs(parser, args)


def check_pairs(parser: Parser, args: argparse.Namespace) -> None:
    """Exit with one line where ``--opts`` are not pairs."""
    if len(args.opts) % 2:
        parser.error("--opts takes pairs KEY VALUE")


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """End the process with one line where the model, a list or an output cannot be used."""
    with sigint_deferred():
        from videofib.checkpoint.file import CheckpointError

    try:
        yield
    except (ConfigError, CheckpointError, ManifestError, DecodeError, StartError, ValueError) as error:
        raise SystemExit(f"error: {printable(error)}") from None
    except OSError as error:
        raise SystemExit(f"error: {printable(describe(error))}") from None


def load_model(args: argparse.Namespace) -> SavedModel:
    """The model that the options name, on the CPU where a command has no ``--device``.

    A command may have ``--classes``, the file of their names, and a precision.

    Raises:
        CheckpointError, ConfigError, ManifestError: as of :func:`videofib.load` and of the file.
    """
    with sigint_deferred():
        from videofib.data.lists.classes_file import read_class_names
        from videofib.run.load import load

    classes = getattr(args, "classes", None)
    return load(
        args.model,
        checkpoint=args.checkpoint,
        part=args.part,
        task=args.task,
        config=args.cfg,
        classes=read_class_names(classes) if classes else None,
        options=dict(zip(args.opts[::2], args.opts[1::2], strict=True)),
        device=getattr(args, "device", "cpu"),
        precision=getattr(args, "precision", "fp32"),
        compiled=getattr(args, "compile", False),
    )


def reading_workers(asked: int | None, count: int) -> int:
    """The processes that read ``count`` videos, where a person has asked for so many, or for none."""
    if asked is not None:
        return asked
    return 0 if count < _FEW else min(os.cpu_count() or 1, _MOST_WORKERS)
