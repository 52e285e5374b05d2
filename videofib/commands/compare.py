"""Compare runs: figures with intervals, curves, settings that differ, and paired tests on the same videos.

videofib compare OUTPUT_DIR OUTPUT_DIR ... --out FILE.html

Prints the tables, and with --out writes them and the curves as a page. Each run is compared with the first.
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
        from videofib.report.comparison import Comparison
        from videofib.report.read import ReportError
        from videofib.run.reporting import cost_of_folder

    try:
        comparison = Comparison(args.folders, [cost_of_folder(folder) for folder in args.folders])
        print("\n".join(map(printable, comparison.as_text().split("\n"))))
        if args.out:
            comparison.write(args.out)
            print(f"\nwrote {printable(args.out)}")
    except ReportError as error:
        raise SystemExit(f"error: {printable(error)}") from None
    except OSError as error:
        raise SystemExit(f"error: {printable(describe(error))}") from None


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("videofib compare", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", metavar="OUTPUT_DIR", help="output folders of runs")
    parser.add_argument("--out", metavar="FILE.html", help="the page to write")
    return parser.parse_args(argv)
