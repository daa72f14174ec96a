"""What a training costs: all candidates, the search, the comparison and the refit.

    python benchmarks/training.py --source online-retail-ii --data <folder>
        [--rows 100000] [--home <folder>] [--test-days ...]

Builds the home as benchmarks/models.py does, and times `ml.training.train` as of the day on which
the labels of the last test day have matured, with progress. Processor seconds are those of all
threads; two recipes are fitted at a time, so two idle cores take about half.

What belongs here: the clock. What does not: homes and panels (benchmarks/models.py).
"""

from __future__ import annotations

import resource
import time
from datetime import timedelta

import models  # the script beside this one, which puts the project on the path


def main() -> None:
    """Build, train, print what it cost."""
    args = models.arguments(__doc__)
    with models.opened(args) as home:
        panel, inputs = models.read_panel(home)

    from ml.settings import TrainingSettings
    from ml.training import TrainingResult, train

    as_of = max(args.test_days) + timedelta(days=args.horizon)
    grid = {max(args.test_days) - timedelta(days=models.STEP_DAYS * k) for k in range(500)}
    wall, cpu = time.perf_counter(), time.process_time()

    def told(message: str) -> None:
        print(f"{time.process_time() - cpu:7.0f} CPU s  {message}", flush=True)

    result = train(
        panel[panel["snapshot_date"].isin(grid)],
        as_of,
        args.horizon,
        models.SEED,
        settings=TrainingSettings(max_rows=args.max_rows, snapshot_spacing_days=models.STEP_DAYS),
        features=inputs,
        on_progress=told,
    )
    told("done")
    if not isinstance(result, TrainingResult):
        raise SystemExit(f"nothing could be compared: {result.decision.reason}")
    print(
        f"\n{result.training_row_count:,} rows a fit at most, {len(result.origins)} origins and "
        f"the refit of {result.chosen}: {time.process_time() - cpu:.0f} processor seconds, "
        f"{time.perf_counter() - wall:.0f} s by the clock, "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB at the peak\n"
    )
    print("| candidate | CPU s of a fit | CPU s to score 10,000 | settings |")
    print("| --- | ---: | ---: | --- |")
    for found in result.candidates:
        said = "" if result.searched is None else result.searched.said(found.name)
        print(
            f"| {found.name} | {found.fit_seconds:.1f} | {found.score_seconds_per_10k:.2f} | "
            f"{said} |"
        )


if __name__ == "__main__":
    main()
