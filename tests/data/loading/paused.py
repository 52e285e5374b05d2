"""A run to be paused: it reads slowly with two workers, and prints what it read and what it lost.

    python -m tests.data.loading.paused FILE

creates FILE when the first batch is there.
"""

import json
import sys
from pathlib import Path

from tests.data.loading.misbehaving import Videos
from videofib.data.loading.loader import VideoLoader


def main() -> None:
    labels, failures = [], []
    with VideoLoader(Videos(*["slow"] * 24), range(24), 2, num_workers=2, time_limit=1.0) as loader:
        for batch in loader:
            Path(sys.argv[1]).touch()
            labels += batch["labels"].tolist()
            failures += batch["failures"]
    print(json.dumps({"labels": labels, "failures": failures}))


if __name__ == "__main__":
    main()
