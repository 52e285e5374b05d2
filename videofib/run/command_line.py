"""The command line of a run: ``--cfg NAME_OR_FILE KEY VALUE ...``, as users of PySlowFast and TimeSformer write it.

Imports nothing that a command's --help has to wait for: what runs is imported once the command line is parsed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from fvcore.common.config import CfgNode

from videofib.config import load_config
from videofib.distributed.torchrun import torchrun_processes
from videofib.parser import Parser


def config_from_command_line(
    argv: Sequence[str] | None, *, prog: str | None = None, description: str | None = None
) -> CfgNode:
    """The config of ``--cfg NAME_OR_FILE KEY VALUE ...``.

    Raises:
        ConfigError: a file or an override that cannot be used.
    """
    return load_config(*command_line(argv, prog=prog, description=description))


def command_line(
    argv: Sequence[str] | None, *, prog: str | None = None, description: str | None = None
) -> tuple[str, list[str]]:
    """The file and the ``KEY VALUE`` pairs of a command line, and of torchrun."""
    parser = Parser(
        prog,
        usage="%(prog)s --cfg NAME_OR_FILE [options] [KEY VALUE ...]",
        description=description,
        epilog="Options come first, then KEY VALUE pairs that change the config.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--cfg", required=True, metavar="NAME_OR_FILE", help="the experiment's YAML file, or a name in configs/"
    )
    parser.add_argument("--shard_id", metavar="N", help="SHARD_ID: index of this machine, from 0")
    parser.add_argument("--num_shards", metavar="N", help="NUM_SHARDS: number of machines")
    parser.add_argument("--init_method", metavar="URL", help="INIT_METHOD: address at which they meet")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], metavar="KEY VALUE", help="may precede the pairs"
    )
    parser.add_argument("pairs", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="for example SOLVER.BASE_LR 0.1")
    args = parser.parse_args(argv)
    overrides = [*args.pairs, *args.opts]
    for key in ("SHARD_ID", "NUM_SHARDS", "INIT_METHOD"):
        if (value := getattr(args, key.lower())) is not None:
            overrides += [key, value]
    if started := torchrun_processes():
        overrides += ["NUM_GPUS", str(started[0]), "NUM_SHARDS", str(started[1])]
    return args.cfg, overrides
