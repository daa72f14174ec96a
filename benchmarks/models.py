"""How good the models are on your data: every candidate, out of time, beside its peers.

    python benchmarks/models.py --source online-retail-ii --data <folder>
        [--test-days 2011-03-10,2011-04-10] [--window 180] [--horizon 90] [--home <folder>]
    python benchmarks/models.py --source contract --data <folder in the source contract> ...
    python benchmarks/models.py --source cdnow --data <folder>
    python benchmarks/models.py --source simulated [--customers 5000]

Builds the features by the real mart (the history job), fits every candidate as of each test day on
what was known by then, and measures them on the snapshot of that day, when its labels have matured.
Intervals and paired differences are by bootstrap over customers, of the mean over test days. With
`--home` the built home is kept, and used again.

What belongs here: building the home, the peers that no shop would serve (LightGBM, BG/NBD), and the
tables. What does not: candidates, fits and formulas; they are those of a training (ml/).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
    import pandas as pd

    from ml.metrics import ProfitModel
    from orchestration.resources.home import Home, Shop

# source: test days, window, horizon; those of the reference numbers where there are any
DEFAULTS: dict[str, tuple[list[date], int, int]] = {
    "online-retail-ii": ([date(2011, month, 10) for month in range(3, 10)], 180, 90),
    "cdnow": ([date(1998, 2, 1), date(1998, 3, 1), date(1998, 4, 1)], 365, 90),
    "simulated": ([date(2025, 1, 31), date(2025, 3, 2), date(2025, 4, 1)], 180, 90),
    "contract": ([], 180, 90),
}
STEP_DAYS = 14  # between training snapshots, as in a training
SEED = 7
REFERENCES = ("logistic_rfm", "bg_nbd", "lightgbm")
MARGIN = "expected_margin_amount"


# test day and candidate: the thresholds that were chosen by what was known on it, by purpose
Chosen = dict[tuple[str, date], Mapping[str, float]]


# -- the home --------------------------------------------------------------------------------------


@contextmanager
def opened(args: argparse.Namespace) -> Iterator[Home]:
    """Make the home that the arguments ask for, or open the one that is there.

    What the data do not allow ends the script with the reason, and without a traceback.
    """
    os.environ.setdefault("HOLDFAST_SECRET", "a-simulated-shop-has-no-secrets")

    from orchestration.defs.sources.contract import ContractError
    from orchestration.defs.sources.landing import LandingError
    from orchestration.resources.dbt import prepare_manifest
    from orchestration.resources.home import HomeError
    from orchestration.runs import RunFailedError
    from orchestration.settings import silence_libraries

    silence_libraries()
    prepare_manifest()
    with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as folder:
        try:
            yield make_home(args, args.home or Path(folder) / "home")
        except (ContractError, HomeError, LandingError, RunFailedError) as error:
            raise SystemExit(str(error)) from None


def make_home(args: argparse.Namespace, root: Path) -> Home:
    """Make the home of the source, or open the one that is there, with all snapshots wanted."""
    from orchestration.resources.home import Home
    from orchestration.runs import run_history

    if Home.exists(root):
        home = Home.open(root)
        wanted = (args.source, args.window, args.horizon)
        have = (home.shop.source, home.shop.active_window_days, home.shop.horizon_days)
        if wanted != have:
            raise SystemExit(f"{root} is a home of {have}, not of {wanted}; choose another --home")
        leave_out(args, home.shop)
    else:
        shop = _shop(args)
        leave_out(args, shop)
        home = Home.create(root, shop)
        _deliver(args, home)
    last = max(args.test_days)
    missing = _missing(home, args.test_days)
    if last in missing:
        run_history(home, last + timedelta(days=args.horizon), STEP_DAYS)
        missing = _missing(home, args.test_days)
    for day in missing:  # those beside the grid: one snapshot each
        run_history(home, day + timedelta(days=args.horizon), start=day)
    return home


def leave_out(args: argparse.Namespace, shop: Shop) -> None:
    """Take off the list, aloud, the test days that no data of this shop can judge.

    Raises:
        SystemExit: none is left.
    """
    horizon = timedelta(days=args.horizon)
    assert shop.last_day is not None
    earliest, latest = shop.first_day + horizon, shop.last_day - horizon
    wrong = [day for day in args.test_days if not earliest < day <= latest]
    if wrong:
        print(
            f"{', '.join(map(str, wrong))}: left out. Orders are known from {shop.first_day} to "
            f"{shop.last_day}; with a horizon of {args.horizon} days a test day lies after "
            f"{earliest}, lest nothing has matured by it, and not after {latest}, lest its own "
            "labels never do"
        )
    args.test_days = [day for day in args.test_days if day not in wrong]
    if not args.test_days:
        raise SystemExit(
            "no test day is left"
            + ("" if earliest < latest else ": ask for a shorter --horizon, or give more history")
        )


def _missing(home: Home, days: list[date]) -> list[date]:
    from orchestration.resources.platform import Platform
    from orchestration.tables import mart_tables

    have = Platform(root=str(home.root)).lake.days(mart_tables()["customer_features"])
    return [day for day in days if day not in set(have)]


def _shop(args: argparse.Namespace) -> Shop:
    from orchestration.defs.sources import online_retail_ii as retail
    from orchestration.defs.sources.landing import delivered_days
    from orchestration.resources.home import Shop

    zone, currency = args.timezone, args.currency
    if args.source == "online-retail-ii":
        first, last = retail.FIRST_DAY, retail.LAST_DAY
        zone, currency = retail.SHOP_TIMEZONE, retail.CURRENCY
    elif args.source == "cdnow":
        first, last = date(1997, 1, 1), date(1998, 6, 30)
    elif args.source == "simulated":
        first = date(2024, 1, 1)
        last = max(args.test_days) + timedelta(days=args.horizon)
    else:
        first, last = delivered_days(args.data)
    return Shop(zone, currency, first, last, args.window, args.horizon, source=args.source)


def _deliver(args: argparse.Namespace, home: Home) -> None:
    import shutil

    from orchestration.defs.sources.online_retail_ii import import_online_retail_ii
    from orchestration.defs.sources.simulated import simulate_into

    if args.source == "online-retail-ii":
        import_online_retail_ii(args.data, home.landing)
    elif args.source == "cdnow":
        import_cdnow(args.data, home.landing)
    elif args.source == "simulated":
        end = home.shop.last_day
        assert end is not None
        after = end + timedelta(days=1)
        simulate_into(home, home.shop.first_day, after, args.customers, SEED, print)
    else:
        shutil.copytree(args.data, home.landing, dirs_exist_ok=True)


def import_cdnow(source: Path, landing: Path) -> None:
    """Write the purchases of the 1997 Q1 cohort as landing files: one order a customer and day.

    Rows of one customer and day are one purchase (69,659 rows, 67,591 purchases); a customer is
    created with the first one. Orders of value 0 stay: somebody bought.
    """
    import pandas as pd

    from orchestration.defs.sources.contract import load_contract
    from orchestration.defs.sources.landing import write_landing

    rows = pd.read_parquet(source / "cdnow_master.parquet")
    cents = (rows["dollar_value"] * 100).round().astype("int64")
    rows = rows.assign(cents=cents, at=pd.to_datetime(rows["date"]), who=rows["customer_id"])
    orders = rows.groupby(["who", "at"], as_index=False)["cents"].sum()
    orders["customer_id"] = orders["who"].astype(str)
    orders["order_id"] = orders["customer_id"] + "-" + orders["at"].dt.strftime("%Y%m%d")
    orders["ordered_at"] = orders["at"] + pd.Timedelta(hours=12)
    frames = {
        "customers": orders.groupby("customer_id", as_index=False)["ordered_at"]
        .min()
        .rename(columns={"ordered_at": "created_at"}),
        "orders": orders[["order_id", "customer_id", "ordered_at"]],
        "order_items": orders[["order_id"]].assign(
            line_number=1, product_id="cd", quantity=1, unit_price=orders["cents"] / 100
        ),
    }
    for name, frame in frames.items():
        write_landing(landing, load_contract().table(name), frame, "cdnow")


# -- fits ------------------------------------------------------------------------------------------


def peers(seed: int, horizon_days: int, features: tuple[str, ...]) -> dict[str, Any]:
    """Return the recipes to be compared with that no training serves."""
    from sklearn.pipeline import Pipeline

    from ml.buy_till_you_die import HISTORY_COLUMNS, BuyTillYouDieClassifier
    from ml.estimators import SelectFeatures

    found: dict[str, Any] = {
        "bg_nbd": Pipeline(
            [
                ("features", SelectFeatures(HISTORY_COLUMNS)),
                ("model", BuyTillYouDieClassifier(horizon_days, "bg")),
            ]
        )
    }
    try:
        from lightgbm import LGBMClassifier
    except (ImportError, OSError) as error:
        print(f"LightGBM cannot be loaded ({error}); the table goes without it")
        return found
    # as little tuned as a data scientist's first attempt on correlated rows: small trees
    found["lightgbm"] = Pipeline(
        [
            ("features", SelectFeatures(features)),
            (
                "model",
                LGBMClassifier(
                    num_leaves=8,
                    n_estimators=300,
                    learning_rate=0.05,
                    min_child_samples=100,
                    reg_lambda=10.0,
                    colsample_bytree=0.3,
                    subsample=0.7,
                    subsample_freq=1,
                    verbose=-1,
                    n_jobs=1,
                    random_state=seed,
                ),
            ),
        ]
    )
    found["lightgbm_defaults"] = Pipeline(
        [
            ("features", SelectFeatures(features)),
            ("model", LGBMClassifier(verbose=-1, n_jobs=1, random_state=seed)),
        ]
    )
    return found


def read_panel(home: Home) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """Return all snapshots with their labels, as a training reads them, and the inputs."""
    from ml.features import INPUTS
    from orchestration.resources.platform import Platform
    from orchestration.tables import mart_tables

    lake, tables = Platform(root=str(home.root)).lake, mart_tables()
    features, labels = tables["customer_features"], tables["churn_labels"]
    left = lake.read_frame(features, lake.days(features), money_as_float=True)
    right = lake.read_frame(labels, lake.days(labels), money_as_float=True)
    panel = left.merge(
        right.drop(columns=["horizon_days"]),
        on=["snapshot_date", "customer_key"],
        how="left",
        validate="one_to_one",
    )
    horizon = timedelta(days=home.shop.horizon_days)
    panel["matured_date"] = [day + horizon for day in panel["snapshot_date"]]
    return panel, INPUTS


def predict(
    panel: pd.DataFrame, inputs: tuple[str, ...], args: argparse.Namespace, home: Home
) -> tuple[pd.DataFrame, Chosen, dict[str, float]]:
    """Return out-of-time predictions of every candidate for each test day, with the expected margin
    of each customer; the thresholds; and CPU seconds.

    A test day on which a training would refuse to compare is left out, with its reason.
    """
    import pandas as pd

    from ml.candidates import SETTINGS, candidates
    from ml.features import FEATURES
    from ml.fitting import fit_candidates
    from ml.search import search, tuned
    from ml.settings import TrainingSettings
    from ml.training import known_by, on_grid, why_unusable
    from ml.validation import split_at
    from ml.value import expected_margin
    from orchestration.defs.models.assets import profit_model
    from orchestration.resources.platform import Platform

    platform = Platform(root=str(home.root))
    recipes = candidates(SEED, inputs, horizon_days=args.horizon, step_days=STEP_DAYS)
    recipes |= peers(SEED, args.horizon, FEATURES)
    # snapshots that stand beside the grid are tested only
    grid = {max(args.test_days) - timedelta(days=STEP_DAYS * k) for k in range(500)}
    blocks: list[pd.DataFrame] = []
    chosen: Chosen = {}
    seconds: dict[str, float] = {}
    for day in args.test_days:
        began = time.process_time()
        test = panel[panel["snapshot_date"] == day].reset_index(drop=True)
        if test.empty or test["is_churned"].isna().any():
            print(f"{day} is left out: it has no customers, or their labels have not matured")
            continue
        known = known_by(panel[panel["snapshot_date"].isin(grid)], day, args.horizon, inputs)
        settings = TrainingSettings(
            max_rows=args.max_rows,
            snapshot_spacing_days=STEP_DAYS,
            profit=profit_model(platform, day, test),
        )
        days, on = on_grid(known, STEP_DAYS)
        split = split_at(days, day, args.horizon, later_days=settings.later_days)
        if split is None:
            print(
                f"{day} is left out: history is too short. Of "
                f"{panel['snapshot_date'].min()}, the first snapshot, labels mature after "
                f"{args.horizon} days, and {settings.later_days} more days of them are needed"
            )
            continue
        judged = ["snapshot_date", "is_churned"]
        rows = pd.concat([on.loc[on["snapshot_date"] < day, judged], test[judged]])
        reason = why_unusable(rows, split, str(day), settings)
        if reason is not None:
            print(f"{day} is left out, as in a training: {reason}")
            continue
        keep = ["snapshot_date", "customer_key", "is_churned", "was_contacted", "account_type",
                "days_since_first_order", "revenue_amount_365d"]  # fmt: skip
        block = test[keep].astype({"is_churned": "int64"})
        margin = expected_margin(test, args.horizon, platform.settings.margin_rate)
        block[MARGIN] = margin["expected_margin_amount"].astype("float64").to_numpy()
        # as a training as of this day does
        found = search(
            recipes, SETTINGS, on, day, split, args.horizon, inputs, SEED, max_rows=args.max_rows
        )
        fitted = fit_candidates(tuned(recipes, found), on, split, settings, inputs, SEED)
        for name, one in fitted.items():
            block[name] = one.model.predict_proba(test)[:, 1].round(6)
            chosen[name, day] = one.thresholds.as_dict()
            seconds[name] = seconds.get(name, 0.0) + one.seconds
        blocks.append(block)
        print(
            f"{day}: {len(test):,} customers, {test['is_churned'].mean():.1%} churned; fitted on "
            f"{len(split.matured)} labelled snapshots, at most "
            f"{max(f.row_count for f in fitted.values()):,} rows, "
            f"{time.process_time() - began:.0f} CPU s; "
            + "; ".join(f"{name}: {found.said(name)}" for name in SETTINGS),
            flush=True,
        )
    if not blocks:
        raise SystemExit("no test day is left to measure on")
    return pd.concat(blocks, ignore_index=True), chosen, seconds


# -- tables ----------------------------------------------------------------------------------------


def report(
    predictions: pd.DataFrame, names: list[str], chosen: Chosen, resamples: int, profit: ProfitModel
) -> None:
    """Print the mean over test days of every metric, with intervals, and paired differences; what
    the thresholds say of the rows of all test days; and what contacting would earn.
    """
    import numpy as np

    from ml.metrics import evaluate, log_losses
    from ml.validation import customer_bootstrap, interval, ranking_bootstrap

    days = sorted(predictions["snapshot_date"].unique())
    each = {
        name: [
            evaluate(own["is_churned"].to_numpy(), own[name].to_numpy())
            for _, own in predictions.groupby("snapshot_date")
        ]
        for name in names
    }

    def mean(name: str, metric: str) -> float:
        return float(np.nanmean([values[metric] for values in each[name]]))

    names = sorted(names, key=lambda name: mean(name, "log_loss"))
    aucs, precisions = ranking_bootstrap(predictions, names, n_resamples=resamples, seed=SEED)
    y = predictions["is_churned"].to_numpy()
    # the mean over days weighs days alike: each row by the inverse of its day's rows
    weight = (
        len(y) / len(days) / predictions.groupby("snapshot_date")["is_churned"].transform("size")
    )
    columns = [(predictions[n].to_numpy() - y) ** 2 for n in names]
    columns += [log_losses(y, predictions[n].to_numpy()) for n in names]
    means = customer_bootstrap(
        np.column_stack(columns) * weight.to_numpy()[:, None],
        predictions["customer_key"],
        n_resamples=resamples,
        seed=SEED,
    )
    drawn = {
        "ROC AUC": ("roc_auc", aucs),
        "avg precision": ("average_precision", precisions),
        "Brier": ("brier", means[:, : len(names)]),
        "log loss": ("log_loss", means[:, len(names) :]),
    }
    print("\nMean over the test days, with 95 % intervals (bootstrap over customers)\n")
    print("| model | " + " | ".join(drawn) + " |")
    print("| --- |" + " --- |" * len(drawn))
    for i, name in enumerate(names):
        cells = []
        for metric, sample in drawn.values():
            found = interval(mean(name, metric), sample[:, i])
            cells.append(f"{found.estimate:.4f} [{found.low:.4f}, {found.high:.4f}]")
        print(f"| {name} | " + " | ".join(cells) + " |")
    print("\nOther metrics, the mean over the test days\n")
    others = {
        "top_decile_lift": "top-decile lift",
        "top_decile_lift_normalised": "normalised",
        "brier_skill": "Brier skill",
        "ece": "ECE",
        "calibration_slope": "slope",
    }
    print("| model | " + " | ".join(others.values()) + " | mean abs bias | worst bias |")
    print("| --- |" + " --- |" * (len(others) + 2))
    for name in names:
        bias = [abs(values["calibration_bias"]) for values in each[name]]
        cells = [f"{mean(name, metric):.3f}" for metric in others]
        print(
            f"| {name} | " + " | ".join([*cells, f"{np.mean(bias):.3f}", f"{max(bias):.3f}"]) + " |"
        )
    print("\nCalibration bias by test day (mean probability minus churn rate)\n")
    print("| model | " + " | ".join(str(day) for day in days) + " |")
    print("| --- |" + " --- |" * len(days))
    for name in names:
        print(
            f"| {name} | "
            + " | ".join(f"{values['calibration_bias']:+.3f}" for values in each[name])
            + " |"
        )
    at_thresholds_of(predictions, names, chosen)
    profits_of(predictions, names, profit)
    for reference in (name for name in REFERENCES if name in names):
        j = names.index(reference)
        print(f"\nPaired differences from {reference}\n")
        print("| model | " + " | ".join(drawn) + " |")
        print("| --- |" + " --- |" * len(drawn))
        for i, name in enumerate(names):
            if name == reference:
                continue
            cells = []
            for metric, sample in drawn.values():
                estimate = mean(name, metric) - mean(reference, metric)
                found = interval(estimate, sample[:, i] - sample[:, j])
                cells.append(f"{found}{'' if found.excludes_zero else ' (0 inside)'}")
            print(f"| {name} | " + " | ".join(cells) + " |")


def at_thresholds_of(predictions: pd.DataFrame, names: list[str], chosen: Chosen) -> None:
    """Print, for each purpose, precision, recall, F1 and the confusion of each candidate."""
    from ml.metrics import CONFUSION
    from ml.training import at_thresholds

    days = sorted(predictions["snapshot_date"].unique())
    tables = {
        name: at_thresholds(predictions, name, {day: chosen[name, day] for day in days})
        for name in names
    }
    rates = ["accuracy", "precision", "recall", "f1"]
    for purpose in tables[names[0]]["purpose"]:
        print(f"\nAt the threshold by {purpose}, chosen on what was known; rows of all test days\n")
        print("| model | " + " | ".join([*CONFUSION, *rates]).replace("_", " ") + " |")
        print("| --- |" + " --- |" * (len(CONFUSION) + len(rates)))
        for name, table in tables.items():
            (row,) = table[table["purpose"] == purpose].to_dict("records")
            cells = [f"{row[c]:,}" for c in CONFUSION] + [f"{row[rate]:.3f}" for rate in rates]
            print(f"| {name} | " + " | ".join(cells) + " |")


def profits_of(predictions: pd.DataFrame, names: list[str], profit: ProfitModel) -> None:
    """Print what contacting whom it pays by each candidate would earn, beside everybody."""
    from ml.metrics import profit_by_value

    print(
        f"\nProfit per customer of contacting whom it pays by their own expected margin, at "
        f"{profit.contact_amount:g} a contact, {profit.incentive_amount:g} an incentive, keeping "
        f"{profit.accept_rate:.1%} of those who would leave ({profit.acceptance})\n"
    )
    print("| model | whom it pays | everybody | share contacted |")
    print("| --- | --- | --- | --- |")
    for name in names:
        y, p = predictions["is_churned"].to_numpy(), predictions[name].to_numpy()
        found = profit_by_value(y, p, predictions[MARGIN].to_numpy(), profit)
        print(
            f"| {name} | {found['profit_by_value']:+.3f} | {found['profit_of_all']:+.3f} | "
            f"{found['share_contacted']:.1%} |"
        )


def against_truth(predictions: pd.DataFrame, names: list[str], home: Home, customers: int) -> None:
    """Print, for the simulated shop, calibration against the truth and the share of its AUC."""
    import numpy as np

    from ml.metrics import roc_auc
    from ml.simulation import truth
    from orchestration.defs.sources.simulated import shop_config
    from orchestration.resources.platform import Platform

    config = shop_config(home, customers, SEED)
    vault = Platform(root=str(home.root)).vault
    print("\nAgainst the truth of the simulation, by test day\n")
    print("| day | model | ROC AUC | share of full | share of observable | mean abs error | bias |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for day, own in predictions.groupby("snapshot_date"):
        keys = list(own["customer_key"])
        identity = vault.identities(keys)
        ids = own["customer_key"].map({key: found.customer_id for key, found in identity.items()})
        true = truth(config, day, home.shop.horizon_days, home.shop.active_window_days)
        true = true.set_index("customer_id").reindex(ids)
        known = true["p_churn_full"].notna().to_numpy()
        y = own["is_churned"].to_numpy()[known]
        full = true["p_churn_full"].to_numpy()[known]
        seen = true["p_churn_observable"].to_numpy()[known]
        best, observable = roc_auc(y, full), roc_auc(y, seen)
        for label, auc in (("(everything known)", best), ("(observable)", observable)):
            print(f"| {day} | {label} | {auc:.4f} | | | | |")
        for name in names:
            p = own[name].to_numpy()[known]
            auc = roc_auc(y, p)
            print(
                f"| {day} | {name} | {auc:.4f} | {(auc - 0.5) / (best - 0.5):.1%} | "
                f"{(auc - 0.5) / (observable - 0.5):.1%} | {np.abs(p - seen).mean():.3f} | "
                f"{(p - full).mean():+.3f} |"
            )


def arguments(told: str | None = None) -> argparse.Namespace:
    """Return what the command line asks for; `told` is the help of the script."""
    parser = argparse.ArgumentParser(
        description=told, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--source", choices=list(DEFAULTS), required=True)
    parser.add_argument("--data", type=Path, help="folder of the source's files")
    parser.add_argument("--test-days", help="comma-separated; default: those of the source")
    parser.add_argument("--window", type=int, help="days within which the population bought")
    parser.add_argument("--horizon", type=int, help="days without an order that are churn")
    parser.add_argument("--home", type=Path, help="keep the built home here, and use it again")
    parser.add_argument("--timezone", default="UTC")
    parser.add_argument("--currency", default="EUR")
    parser.add_argument(
        "--customers", type=int, default=5_000, help="of the simulated shop, or to be scored"
    )
    parser.add_argument(
        "--max-rows", "--rows", type=int, default=100_000, help="rows of a fit at most"
    )
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument("--predictions", type=Path, help="keep the predictions here (Parquet)")
    args = parser.parse_args()
    days, window, horizon = DEFAULTS[args.source]
    args.window, args.horizon = args.window or window, args.horizon or horizon
    args.test_days = (
        sorted(date.fromisoformat(day.strip()) for day in args.test_days.split(","))
        if args.test_days
        else days
    )
    if not args.test_days:
        parser.error("--source contract needs --test-days")
    if args.source != "simulated" and (args.data is None or not args.data.is_dir()):
        parser.error(f"--source {args.source} needs --data FOLDER")
    return args


def main() -> None:
    """Build, fit, measure, print."""
    args = arguments(__doc__)
    with opened(args) as home:
        from orchestration.defs.models.assets import profit_model
        from orchestration.resources.platform import Platform

        panel, inputs = read_panel(home)
        predictions, chosen, seconds = predict(panel, inputs, args, home)
        if args.predictions:
            predictions.to_parquet(args.predictions)
        last = predictions["snapshot_date"].max()
        profit = profit_model(Platform(root=str(home.root)), last, predictions.iloc[:0])
        report(predictions, list(seconds), chosen, args.resamples, profit)
        print("\nCPU seconds of all fits: " + ", ".join(f"{n} {s:.0f}" for n, s in seconds.items()))
        if args.source == "simulated":
            against_truth(predictions, list(seconds), home, args.customers)


if __name__ == "__main__":
    main()
