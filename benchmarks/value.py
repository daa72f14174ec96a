"""Purchase probabilities and customer value on real orders: how well the recipes do out of time.

    python benchmarks/value.py online-retail-ii FOLDER
    python benchmarks/value.py cdnow FOLDER
    python benchmarks/value.py contract FOLDER [--timezone Europe/London]
    python benchmarks/value.py online-retail-ii FOLDER --churn 2011-03-10 2011-04-10 ...

Reads the orders, makes what `customer_status` says of every customer who had bought (dates and
amounts only) at the end of a day every 30 days, and runs the training of the platform
(`ml/value_training.py`) as of the last day: purchases within 7 and 30 days against the recency rule
and MBG/NBD, revenue within 30, 90 and 365 days by aggregate bias, Gini and coverage of the 80 %
intervals, all on later days than the model knew. An order counts as what was left of it on the day.

With test days after `--churn`: P(no order in 90 days) of who bought in the last 180, by BG/NBD and
MBG/NBD fitted to the histories of all past buyers, to those in the population, the latter
recalibrated on labels, and by `BuyTillYouDieClassifier`; taught by fortnightly snapshots.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ml.buy_till_you_die import (
    HISTORY_COLUMNS,
    BuyTillYouDieClassifier,
    fit_purchases,
    histories_of,
    purchase_histories,
)
from ml.customer_value import LEARNT_WINDOWS, PURCHASE_WINDOWS, STATUS_FEATURES, VALUE_WINDOWS
from ml.estimators import fit_monotone_line, logit, sigmoid
from ml.metrics import evaluate
from ml.value_training import (
    PURCHASE_RECIPES,
    VALUE_RECIPES,
    ValueResult,
    ValueSettings,
    days_needed,
    train_value,
)

SEED = 7
ACTIVE_DAYS = 180


class Orders:
    """Order lines with what was cancelled of them and when; `as_of` is what stood on a day."""

    def __init__(self, lines: pd.DataFrame) -> None:
        self.lines = lines  # order_id, customer_key, day, amount, and per line cancelled_day, left

    def as_of(self, day: date) -> pd.DataFrame:
        """Return customer_key, ordered_date and revenue_amount of the orders valid on `day`."""
        end = pd.Timestamp(day)
        known = self.lines[self.lines["day"] <= end]
        is_cancelled = (known["cancelled_day"] <= end).to_numpy()
        left = known.assign(
            units=np.where(is_cancelled, known["units_left"], known["units"]),
            revenue_amount=np.where(is_cancelled, known["amount_left"], known["amount"]),
        )
        found = left.groupby("order_id").agg(
            customer_key=("customer_key", "first"),
            ordered_date=("day", "first"),
            units=("units", "sum"),
            revenue_amount=("revenue_amount", "sum"),
        )
        return found[found["units"] > 0].drop(columns="units").reset_index(drop=True)


def from_contract(folder: Path, timezone: str) -> Orders:
    """Read `orders` and `order_items` of a folder in the source contract."""

    def read(table: str) -> pd.DataFrame:
        files = sorted(p for p in (folder / table).rglob("*") if p.suffix in (".parquet", ".csv"))
        if not files:
            raise SystemExit(f"{folder / table} holds no Parquet or CSV file")
        parts = [pd.read_parquet(p) if p.suffix == ".parquet" else pd.read_csv(p) for p in files]
        return pd.concat(parts, ignore_index=True)

    def day(column: pd.Series) -> pd.Series:
        at = pd.to_datetime(column, utc=True, format="ISO8601").dt.tz_convert(timezone)
        return at.dt.tz_localize(None).dt.normalize().astype("datetime64[us]")

    orders, items = read("orders"), read("order_items")
    for frame in (orders, items):
        for name in ("cancelled_at", "ordered_at", "cancelled_quantity"):
            if name not in frame:
                frame[name] = None
    lines = items.merge(
        orders[["order_id", "customer_id", "ordered_at", "cancelled_at"]],
        on="order_id",
        suffixes=("", "_order"),
    )
    whole = day(lines["cancelled_at_order"])
    part = day(lines["cancelled_at"])
    price = lines["unit_price"].astype("float64")
    units = lines["quantity"].astype("float64")
    cancelled = lines["cancelled_quantity"].astype("float64").fillna(0.0)
    left = np.where(whole.notna(), 0.0, units - cancelled)
    return Orders(
        pd.DataFrame(
            {
                "order_id": lines["order_id"],
                "customer_key": lines["customer_id"].astype(str),
                "day": day(
                    lines["ordered_at_order"]
                    if "ordered_at_order" in lines
                    else lines["ordered_at"]
                ),
                "cancelled_day": whole.fillna(part),
                "units": units,
                "units_left": left,
                "amount": units * price,
                "amount_left": left * price,
            }
        )
    )


def from_cdnow(folder: Path) -> Orders:
    """Read the 69,659 purchases of all 23,570 customers; purchases of one day are one order."""
    rows = pd.read_parquet(folder / "cdnow_master.parquet")
    daily = rows.groupby(["customer_id", "date"], as_index=False)["dollar_value"].sum()
    return Orders(
        pd.DataFrame(
            {
                "order_id": np.arange(len(daily)),
                "customer_key": daily["customer_id"].astype(str),
                "day": pd.to_datetime(daily["date"]).astype("datetime64[us]"),
                "cancelled_day": pd.Series(pd.NaT, index=daily.index, dtype="datetime64[us]"),
                "units": 1.0,
                "units_left": 1.0,
                "amount": daily["dollar_value"],
                "amount_left": daily["dollar_value"],
            }
        )
    )


def from_online_retail_ii(folder: Path) -> Orders:
    """Import the invoices as the platform does, and read what that wrote."""
    from orchestration.defs.sources.online_retail_ii import import_online_retail_ii

    with tempfile.TemporaryDirectory(prefix="holdfast-benchmark-") as landing:
        import_online_retail_ii(folder, Path(landing))
        return from_contract(Path(landing), "Europe/London")


def status_of(orders: Orders, day: date) -> pd.DataFrame:
    """Return what `customer_status` of `day` says, as far as orders alone tell it."""
    known = orders.as_of(day)
    histories = purchase_histories(known, day)
    age = (pd.Timestamp(day) - known["ordered_date"]).dt.days
    silent = (histories["tenure"] - histories["recency"]).to_numpy()
    frequency = histories["frequency"].to_numpy()
    status = pd.DataFrame(
        {
            "snapshot_date": day,
            "customer_key": histories["customer_key"],
            "lifecycle": np.where(silent < ACTIVE_DAYS, "active", "dormant"),
            "days_since_first_order": histories["tenure"],
            "days_since_last_order": silent,
            "gap_mean_days": np.where(
                frequency > 0, histories["recency"] / np.maximum(frequency, 1), np.nan
            ),
            "order_count_lifetime": histories["order_count"].to_numpy("float64"),
            "revenue_amount_lifetime": histories["revenue_amount"],
        }
    )
    for window in VALUE_WINDOWS:
        inside = known[age < window].groupby("customer_key")["revenue_amount"].agg(["size", "sum"])
        inside = inside.reindex(status["customer_key"]).fillna(0.0)
        status[f"order_count_{window}d"] = inside["size"].to_numpy("float64")
        status[f"revenue_amount_{window}d"] = inside["sum"].to_numpy("float64")
    nothing = {
        name: np.nan if name.startswith("days_since") else 0.0
        for name in STATUS_FEATURES
        if name not in status
    }
    return status.assign(
        **nothing,
        margin_amount_365d=np.nan,
        is_margin_known=False,
        main_category=None,
        main_category_share_365d=np.nan,
    )


def report(result: ValueResult) -> str:
    """Return what was found as Markdown."""
    m, lines = result.metrics, []

    def known(name: str, form: str = ".4f") -> str:
        return format(m[name], form) if name in m else "-"

    lines += ["", "| purchases within | recipe | log loss | ROC AUC | average precision | bias |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for window in PURCHASE_WINDOWS:
        for recipe in PURCHASE_RECIPES:
            chosen = " (chosen)" if result.purchase_recipes.get(str(window)) == recipe else ""
            values = " | ".join(
                known(f"purchase_{window}d_{metric}_{recipe}", form)
                for metric, form in (
                    ("log_loss", ".4f"),
                    ("roc_auc", ".4f"),
                    ("average_precision", ".4f"),
                    ("bias", "+.3f"),
                )
            )
            lines.append(f"| {window} days | {recipe}{chosen} | {values} |")
    lines += ["", "| revenue within | recipe | deviance | Gini | bias | bias of orders |"]
    lines += ["| --- | --- | --- | --- | --- | --- |"]
    for window in VALUE_WINDOWS:
        for recipe in VALUE_RECIPES if window in LEARNT_WINDOWS else VALUE_RECIPES[:1]:
            values = " | ".join(
                known(f"value_{window}d_{metric}_{recipe}", form)
                for metric, form in (
                    ("deviance", ".3f"),
                    ("gini", ".4f"),
                    ("bias", "+.3f"),
                    ("orders_bias", "+.3f"),
                )
            )
            chosen = " (chosen)" if recipe == result.recipe else ""
            lines.append(f"| {window} days | {recipe}{chosen} | {values} |")
    lines += ["", "| 80 % intervals | value tier | covered | not [0, 0] | covered of these |"]
    lines += ["| --- | --- | --- | --- | --- |"]
    for row in result.coverages.to_dict("records"):
        all_, some = (
            f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"
            for name in ("coverage", "coverage_attainable")
        )
        lines.append(
            f"| {row['measure']}, {row['window_days']} days | {row['tier']} | {all_} | "
            f"{row['attainable_share']:.2f} | {some} |"
        )
    lines.append("")
    lines += [f"{name}: {found}" for name, found in result.intervals.items()]
    lines += [f"{name}: {value:.4f}" for name, value in m.items() if "dormant" in name]
    lines += [f"{name}: tested on {', '.join(map(str, d))}" for name, d in result.origins.items()]
    for window, table in result.deciles.items():
        shown = "; ".join(
            f"{r.expected_mean:.1f} / {r.actual_mean:.1f}" for r in table.itertuples()
        )
        lines.append(f"deciles of revenue within {window} days, expected / actual: {shown}")
    return "\n".join(lines)


def churn(orders: Orders, tests: list[date], horizon: int = 90) -> pd.DataFrame:
    """Return mean metrics over the test days of each way to fit the four parameters."""
    known: dict[date, pd.DataFrame] = {}

    def status(day: date) -> pd.DataFrame:
        if day not in known:
            known[day] = status_of(orders, day)
        return known[day]

    def labelled(day: date) -> tuple[pd.DataFrame, np.ndarray]:
        rows = status(day)[lambda f: f["days_since_last_order"] < ACTIVE_DAYS]
        later = status(day + timedelta(days=horizon)).set_index("customer_key")
        came = later["order_count_90d"].reindex(rows["customer_key"]).fillna(0.0)
        return rows, (came.to_numpy() == 0).astype(int)

    first = orders.lines["day"].min().date() + timedelta(days=ACTIVE_DAYS // 2)
    found = []
    for test in tests:
        taught = [
            labelled(first + timedelta(days=14 * n))
            for n in range(((test - first).days - horizon) // 14 + 1)
        ]
        rows = pd.concat([one for one, _ in taught], ignore_index=True)
        y = np.concatenate([label for _, label in taught])
        own, (now, came) = histories_of(rows), labelled(test)
        at = histories_of(now)
        bg = fit_purchases(histories_of(status(test)), "bg")
        mbg = fit_purchases(histories_of(status(test)), "mbg")
        naive = fit_purchases(own, "mbg")
        a, b = fit_monotone_line(logit(naive.no_purchase_probability(own, horizon)), y)
        classifier = BuyTillYouDieClassifier(horizon).fit(_matrix(rows), y)
        for name, p in {
            "BG/NBD, all past buyers": bg.no_purchase_probability(at, horizon),
            "MBG/NBD, all past buyers": mbg.no_purchase_probability(at, horizon),
            "MBG/NBD, the population": naive.no_purchase_probability(at, horizon),
            "the same, recalibrated": sigmoid(
                a + b * logit(naive.no_purchase_probability(at, horizon))
            ),
            "MBG/NBD by labels": classifier.predict_proba(_matrix(now))[:, 1],
        }.items():
            measured = evaluate(came, p)
            found.append({"fit": name, **measured})
    wanted = ["roc_auc", "average_precision", "brier", "log_loss"]
    return pd.DataFrame(found).groupby("fit", sort=False)[wanted].mean()


def _matrix(frame: pd.DataFrame) -> np.ndarray:
    return frame[list(HISTORY_COLUMNS)].to_numpy("float64")


def main() -> None:
    """Measure and print."""
    readers: dict[str, Callable[[Path], Orders]] = {
        "cdnow": from_cdnow,
        "online-retail-ii": from_online_retail_ii,
    }
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", choices=[*readers, "contract"])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--timezone", default="UTC")
    parser.add_argument("--as-of", type=date.fromisoformat)
    parser.add_argument("--churn", type=date.fromisoformat, nargs="+", metavar="DAY")
    args = parser.parse_args()
    if args.source == "contract":
        orders = from_contract(args.folder, args.timezone)
    else:
        orders = readers[args.source](args.folder)
    if args.churn:
        print(churn(orders, args.churn).round(4).to_string())
        return
    first = orders.lines["day"].min().date()
    last = args.as_of or orders.lines["day"].max().date()
    days = days_needed(last, first + timedelta(days=ACTIVE_DAYS // 2))
    status = pd.concat([status_of(orders, day) for day in days], ignore_index=True)
    print(f"{args.source}: {len(days)} days, {days[0]} .. {last}, {len(status):,} rows", flush=True)
    started = time.process_time()
    result = train_value(status, last, SEED, settings=ValueSettings())
    print(f"trained in {time.process_time() - started:.1f} CPU s: {result.reason}")
    print(report(result))


if __name__ == "__main__":
    main()
