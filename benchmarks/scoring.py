"""What a day of scores costs at a large shop: probabilities of all, reasons of the riskiest tenth.

    python benchmarks/scoring.py --source online-retail-ii --data <folder>
        [--customers 1000000] [--rows 60000] [--home <folder>]

Builds the home as benchmarks/models.py does, fits the average (survival and MBG/NBD) as of the last
test day, and scores the customers of that day over and over, each under keys of its own, until
there are as many as asked for. Processor seconds of one thread; reading and publishing are not in
it (docs/benchmarks.md).

What belongs here: the clock. What does not: homes and panels (benchmarks/models.py).
"""

from __future__ import annotations

import resource
import time

import models  # the script beside this one, which puts the project on the path


def main() -> None:
    """Build, fit, score, explain, print what it cost."""
    args = models.arguments(__doc__)
    with models.opened(args) as home:
        panel, inputs = models.read_panel(home)

    import numpy as np
    import pandas as pd

    from ml.candidates import AVERAGES, candidates
    from ml.features import feature_matrix
    from ml.fitting import fit_candidates
    from ml.reasons import TOLD_DECILES, reasons
    from ml.scoring import score
    from ml.settings import TrainingSettings
    from ml.training import known_by, on_grid
    from ml.validation import split_at

    day = max(args.test_days)
    days, on = on_grid(known_by(panel, day, args.horizon, inputs), models.STEP_DAYS)
    settings = TrainingSettings(max_rows=args.max_rows, snapshot_spacing_days=models.STEP_DAYS)
    split = split_at(days, day, args.horizon, later_days=settings.later_days)
    if split is None:
        raise SystemExit(f"{day}: no snapshot has a label that matured by then")
    recipes = candidates(models.SEED, inputs, horizon_days=args.horizon, step_days=models.STEP_DAYS)
    parts = {name: recipes[name] for name in AVERAGES["average"]}
    model = fit_candidates(parts, on, split, settings, inputs, models.SEED)["average"].model

    of_day = feature_matrix(panel[panel["snapshot_date"] == day], inputs).reset_index(drop=True)
    count = args.customers
    inputs_of_all = of_day.take(np.resize(np.arange(len(of_day)), count)).reset_index(drop=True)
    inputs_of_all.insert(0, "customer_key", pd.Series([f"{i:032x}" for i in range(count)]))
    del panel, on, of_day

    started = time.process_time()
    scores = score(model, inputs_of_all)
    scored = time.process_time()
    passed_over = scores["churn_decile"].gt(TOLD_DECILES).set_axis(scores["customer_key"])
    probability = scores.set_index("customer_key")["churn_probability"]
    told = reasons(model, inputs_of_all, inputs_of_all, passed_over, probability)
    ended = time.process_time()
    explained = int(told["customer_key"].map(~passed_over).sum())
    print(
        f"\n{count:,} customers: {scored - started:.1f} CPU s to score; {ended - scored:.1f} for "
        f"the reasons of {explained:,}; together {ended - started:.1f}. "
        f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.1f} GB at the peak"
    )


if __name__ == "__main__":
    main()
