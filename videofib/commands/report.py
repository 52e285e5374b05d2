"""The page of a run: learning curves, accuracies, the most confident mistakes as clips, cost, config, environment.

videofib report OUTPUT_DIR

Writes OUTPUT_DIR/report.html, one file that needs no other. Training and testing write it as well when they end.
"""

import argparse
from collections.abc import Sequence

from videofib.printable import printable
from videofib.report.page import write_report
from videofib.report.read import ReportError
from videofib.run.reporting import cost_of_folder


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    try:
        print(f"wrote {write_report(args.folder, cost=cost_of_folder(args.folder), videos=max(0, args.videos))}")
    except (ReportError, OSError) as error:
        raise SystemExit(printable(f"error: {error}")) from None


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "videofib report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="OUTPUT_DIR", help="the output folder of a run")
    parser.add_argument(
        "--videos", type=int, default=6, metavar="N", help="mistakes shown with their clips; 0 shows none (default 6)"
    )
    return parser.parse_args(argv)
