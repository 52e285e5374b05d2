"""Several runs side by side: figures with intervals, curves, settings that differ, and the same videos in pairs.

python tools/compare_runs.py OUTPUT_DIR OUTPUT_DIR ... --out FILE.html

Prints the tables, and writes the page where --out names one. Each later run is compared with the first.
"""

import argparse

from videofib.report.comparison import Comparison
from videofib.report.read import ReportError
from videofib.run.reporting import cost_of_folder


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folders", nargs="+", metavar="OUTPUT_DIR", help="folders of runs")
    parser.add_argument("--out", metavar="FILE.html", help="page to write")
    args = parser.parse_args(argv)
    try:
        found = Comparison(args.folders, [cost_of_folder(folder) for folder in args.folders])
        print(found.as_text())
        if args.out:
            found.write(args.out)
            print(f"\nwrote {args.out}")
    except (ReportError, OSError) as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
