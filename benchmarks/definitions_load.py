"""What loading the definitions costs beyond importing dagster and dagster_dbt; target: 1 s.

    .venv/bin/python benchmarks/definitions_load.py [REPETITIONS]

Each repetition is a fresh process; the best of them is what the code costs, the others what else
the machine was doing.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
TARGET_SECONDS = 1.0

LOAD = """
import json, time
t0 = time.perf_counter()
import dagster, dagster_dbt
t1 = time.perf_counter()
import orchestration.definitions as module
t2 = time.perf_counter()
definitions = module.build_defs()
t3 = time.perf_counter()
definitions.get_repository_def().get_all_jobs()
t4 = time.perf_counter()
print(json.dumps([t1 - t0, t2 - t1, t3 - t2, t4 - t3]))
"""
STEPS = ("import dagster, dagster_dbt", "import ours", "build_defs()", "resolve the repository")


def main(repetitions: int = 5) -> int:
    with tempfile.TemporaryDirectory() as home:
        runs = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", LOAD],
                    cwd=ROOT,
                    env={"PATH": "", "HOLDFAST_HOME": home, "HOME": home},
                    capture_output=True,
                    text=True,
                    check=True,
                ).stdout.splitlines()[-1]
            )
            for _ in range(repetitions)
        ]
    for name, values in zip(STEPS, zip(*runs, strict=True), strict=True):
        print(f"{name:30} best {min(values):6.3f} s  median {statistics.median(values):6.3f} s")
    beyond = [sum(run[1:]) for run in runs]
    print(
        f"{'beyond the imports':30} best {min(beyond):6.3f} s  median "
        f"{statistics.median(beyond):6.3f} s  target {TARGET_SECONDS} s"
    )
    return 0 if min(beyond) <= TARGET_SECONDS else 1


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])))
