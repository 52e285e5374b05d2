"""Submit a run to a cluster: a job that saves before its time limit and is then queued again.

videofib submit --nodes 2 --gpus 8 --partition gpu --hours 24 --cfg NAME_OR_FILE OUTPUT_DIR runs/mine

The options of the job come first; the rest is the command line of ``videofib run``. The job's output goes to
OUTPUT_DIR/job, the run's own log to OUTPUT_DIR.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from videofib.config import ConfigError
from videofib.files import describe
from videofib.parser import Parser
from videofib.printable import printable
from videofib.run.command_line import config_from_command_line
from videofib.run.slurm_job import SubmittedRun

SAVING_SECONDS = 300  # before the time limit Slurm signals the run, which then has this long to save


def main(argv: Sequence[str] | None = None) -> None:
    """Submit the job and print its number."""
    args, words = arguments(argv)
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise SystemExit("error: submitting jobs needs submitit: pip install 'videofib[slurm]'") from None
    try:  # checks the config now rather than when the job starts
        cfg = config_from_command_line(
            [*words, "NUM_GPUS", str(args.gpus), "NUM_SHARDS", str(args.nodes)], prog="videofib submit"
        )
    except ConfigError as error:
        raise SystemExit(printable(f"error: {error}")) from None

    try:
        (folder := Path(cfg.OUTPUT_DIR) / "job").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SystemExit(f"error: OUTPUT_DIR cannot be written: {printable(describe(error))}") from None
    executor = AutoExecutor(folder, cluster=args.cluster, slurm_max_num_timeout=args.turns)
    executor.update_parameters(
        name=args.name,
        nodes=args.nodes,
        tasks_per_node=1,
        gpus_per_node=args.gpus,
        cpus_per_task=args.cpus * args.gpus,
        timeout_min=int(args.hours * 60),
        **({"slurm_partition": args.partition} if args.partition else {}),
        slurm_signal_delay_s=SAVING_SECONDS,
    )
    job = executor.submit(SubmittedRun(words, args.gpus))
    files = f"{job.paths.stdout} and {job.paths.stderr}"
    print(f"job {job.job_id}; its output is in {printable(files)}", flush=True)
    if args.wait:
        job.result()


def arguments(argv: Sequence[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """The options of the job, and the words that are the run's."""
    parser = Parser(
        "videofib submit",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of each node, with one process each (default 1)")
    parser.add_argument("--cpus", type=int, default=8, help="CPU cores for each GPU (default 8)")
    parser.add_argument(
        "--hours", type=float, default=24.0, help="time limit, after which the job is queued again (default 24)"
    )
    parser.add_argument("--turns", type=int, default=20, help="how often it may be queued again (default 20)")
    parser.add_argument("--partition", help="Slurm's partition")
    parser.add_argument("--name", default="videofib", help="the job's name (default videofib)")
    parser.add_argument("--cluster", choices=("slurm", "local"), help="default: slurm if it is installed, else local")
    parser.add_argument("--wait", action="store_true", help="wait until the job ends")
    return parser.parse_known_args(argv)
