"""Submit a run to a cluster: the same command as run_net.py, in a job that saves and queues again when its time is up.

python tools/submit.py --nodes 2 --gpus 8 --partition gpu --hours 24 --cfg FILE.yaml OUTPUT_DIR runs/mine

Options of the job come first. What the job says is in OUTPUT_DIR/job; the run's own log is in OUTPUT_DIR as ever.
"""

import argparse
from pathlib import Path

from videofib.run.main import USER_ERRORS, config_from_command_line
from videofib.run.slurm_job import SubmittedRun


def main() -> None:
    """Submit, and print the number of the job."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--nodes", type=int, default=1, help="machines (default 1)")
    parser.add_argument("--gpus", type=int, default=1, help="GPUs of each, one process each (default 1)")
    parser.add_argument("--cpus", type=int, default=8, help="CPU cores for each GPU (default 8)")
    parser.add_argument(
        "--hours", type=float, default=24.0, help="of each turn; the job goes on in another (default 24)"
    )
    parser.add_argument("--turns", type=int, default=20, help="how often it may be queued again (default 20)")
    parser.add_argument("--partition", help="of Slurm")
    parser.add_argument("--name", default="videofib", help="of the job (default videofib)")
    parser.add_argument("--cluster", choices=("slurm", "local"), help="default: slurm where there is one, else local")
    parser.add_argument("--wait", action="store_true", help="until the job is done")
    args, words = parser.parse_known_args()
    try:
        from submitit import AutoExecutor
    except ImportError:
        raise SystemExit("error: submitting jobs needs submitit: pip install 'videofib[slurm]'") from None
    try:  # a mistake is told now, not when the job's turn comes
        cfg = config_from_command_line([*words, "NUM_GPUS", str(args.gpus), "NUM_SHARDS", str(args.nodes)])
    except USER_ERRORS as error:
        raise SystemExit(f"error: {error}") from None

    executor = AutoExecutor(Path(cfg.OUTPUT_DIR) / "job", cluster=args.cluster, slurm_max_num_timeout=args.turns)
    executor.update_parameters(
        name=args.name,
        nodes=args.nodes,
        tasks_per_node=1,
        gpus_per_node=args.gpus,
        cpus_per_task=args.cpus * args.gpus,
        timeout_min=int(args.hours * 60),
        **({"slurm_partition": args.partition} if args.partition else {}),
        slurm_signal_delay_s=300,  # seconds before the end at which the run is asked to save
    )
    job = executor.submit(SubmittedRun(words, args.gpus))
    print(f"job {job.job_id}; what it says is in {job.paths.stdout} and {job.paths.stderr}", flush=True)
    if args.wait:
        job.result()


if __name__ == "__main__":
    main()
