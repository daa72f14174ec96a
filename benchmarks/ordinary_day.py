"""What an ordinary day costs, from the command to its end, and how much of it is start-up.

    python benchmarks/ordinary_day.py [--customers 20000] [--rounds 3]

Makes a simulated shop with models, as the demo does, and runs the next day in a process of its own,
as cron or a shell would; then the same day in this process, which has everything imported and
parsed. The difference is start-up: interpreter, imports, definitions, dbt's parse. Between runs the
home is put back as it was.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from daily_range import ENROLLED, ROOT, Stopwatch, keep, make_home, measure, quiet, restored

if TYPE_CHECKING:
    from orchestration.resources.home import Home


def cold(home: Home) -> tuple[float, float]:
    """Return wall and CPU seconds of the next day in a process of its own."""
    day = (ENROLLED + timedelta(days=1)).isoformat()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "orchestration", "run", "--from", day],
        cwd=ROOT,
        env={**os.environ, "HOLDFAST_HOME": str(home.root)},
        check=True,
        stdout=subprocess.DEVNULL,
    )
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--customers", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    os.environ.setdefault("HOLDFAST_SECRET", "a-simulated-shop-has-no-secrets")

    from orchestration.resources.dbt import prepare_manifest
    from orchestration.settings import silence_libraries

    silence_libraries()
    prepare_manifest()
    watch = Stopwatch()
    with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as folder:
        print(f"making a shop of {args.customers:,} customers ...", flush=True)
        with quiet():
            home = make_home(Path(folder) / "home", args.customers, ENROLLED + timedelta(days=2))
        kept = Path(folder) / "kept"
        keep(home, kept)
        with restored(home, kept):
            measure(home, 1, watch)  # takes in the second delivery, which no later run does
        print("round   cold s   cold CPU s   warm s   start-up")
        shares = []
        for number in range(args.rounds):
            with restored(home, kept):
                wall, cpu = cold(home)
            with restored(home, kept):
                warm = measure(home, 1, watch)
            shares.append(1 - warm / wall)
            print(
                f"{number + 1:5}   {wall:6.1f}   {cpu:10.1f}   {warm:6.1f}   {shares[-1]:8.0%}",
                flush=True,
            )
        print(f"median share of start-up {statistics.median(shares):.0%}")


if __name__ == "__main__":
    main()
