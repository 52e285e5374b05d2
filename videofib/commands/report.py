"""The page of a run: learning curves, accuracies, the most confident mistakes as clips, cost, config, environment.

videofib report OUTPUT_DIR

Writes OUTPUT_DIR/report.html, one file that needs no other. Training and testing write it as well when they end.

Frames are shown of videos in the run's data folder, where this is a local one with its lists; --data names others.
"""

import argparse
from collections.abc import Sequence

from videofib.files import describe
from videofib.parser import Parser
from videofib.printable import printable
from videofib.signals import sigint_deferred


def main(argv: Sequence[str] | None = None) -> None:
    args = arguments(argv)
    with sigint_deferred():
        from videofib.report.page import write_report
        from videofib.report.read import ReportError
        from videofib.run.reporting import cost_of_folder

    try:
        cost = cost_of_folder(args.folder)
        file = write_report(args.folder, cost=cost, videos=max(0, args.videos), data=args.data)
    except ReportError as error:
        raise SystemExit(f"error: {printable(error)}") from None
    except OSError as error:
        raise SystemExit(f"error: {printable(describe(error))}") from None
    print(f"wrote {printable(file)}")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="OUTPUT_DIR", help="the output folder of a run")
    parser.add_argument(
        "--videos", type=int, default=6, metavar="N", help="mistakes shown with their clips; 0 shows none (default 6)"
    )
    parser.add_argument(
        "--data", nargs="+", default=[], metavar="FOLDER", help="folders or URLs whose videos may be shown, too"
    )
    return parser.parse_args(argv)
