"""A run on one page: learning curves, accuracies, the surest mistakes moving, cost, config and environment.

python tools/report.py OUTPUT_DIR

Writes OUTPUT_DIR/report.html, as training and testing do at their ends; it needs nothing but itself.
"""

import argparse

from videofib.report.page import write_report
from videofib.report.read import ReportError
from videofib.run.reporting import cost_of_folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", metavar="OUTPUT_DIR", help="folder of a run")
    parser.add_argument("--videos", type=int, default=6, metavar="N", help="mistakes shown with their frames; 0: none")
    args = parser.parse_args(argv)
    try:
        print(f"wrote {write_report(args.folder, cost=cost_of_folder(args.folder), videos=max(0, args.videos))}")
    except (ReportError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
