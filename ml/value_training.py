"""One training of purchase probabilities and customer value: compare out of time, choose, refit.

Belongs here: what came of each snapshot, the recipes, the procedure and its decision. Does not
belong here: the model that serves (ml.customer_value), splits (ml.validation), formulas
(ml.value_metrics, ml.metrics), the MLflow store (ml.registry).

There is no table of labels: what a customer of snapshot S bought in the w days after it is what
`customer_status` of S + w says of its last w days. So labels mature after w days and not after the
longest window, cover everybody, dormant customers and prospects too, and are judged by what was
known at S + w.

Time is the split, the window the gap: whatever is compared was expected as of T by a model that
used nothing known after T. Intervals are resampled by customer.
"""

from __future__ import annotations

import hashlib
import warnings
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.exceptions import ConvergenceWarning
from sklearn.feature_selection import VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import StandardScaler

from ml.boosting import BoostingClassifier, BoostingRegressor
from ml.buy_till_you_die import FitError, histories_of, rank_correlation
from ml.customer_value import (
    LEARNT_WINDOWS,
    PURCHASE_WINDOWS,
    VALUE_WINDOWS,
    Bands,
    CustomerValueModel,
    Purchases,
    category_matrix,
    design,
    fit_bands,
    fit_purchase_model,
    nested,
)
from ml.estimators import CalibratedOnLaterSnapshots, SignedLog, sigmoid
from ml.metrics import average_precision, log_losses, roc_auc
from ml.promotion import alpha_of, paired_difference
from ml.slices import TIERS, value_tier
from ml.threads import one_thread
from ml.training import TrainingSkipped
from ml.validation import (
    Interval,
    Split,
    customer_bootstrap,
    interval,
    rolling_origins,
    split_at,
    thin,
)
from ml.value_metrics import (
    aggregate_bias,
    deciles,
    deviances,
    is_covered,
    normalised_gini,
    resampled,
)

Array = npt.NDArray[np.float64]

VALUE_RECIPES = ("buy_till_you_die", "boosting", "average")
PURCHASE_RECIPES = ("recency_rule", "buy_till_you_die", "boosting")
# Everything that a snapshot needs; the longest window whose outcome is learnt decides the step.
CATEGORY_SEPARATOR = "|"
#: Share of the deviance of 90 days that a refresh may lose, and not more: from one recipe to the
#: next it is as much (docs/benchmarks-value.md).
DEVIANCE_MARGIN = 0.01
_CHAMPION = "champion"
COVERAGE_COLUMNS = (
    "window_days",
    "measure",
    "tier",
    "row_count",
    "attainable_share",
    "coverage",
    "coverage_low",
    "coverage_high",
    "coverage_attainable",
    "coverage_attainable_low",
    "coverage_attainable_high",
)
ALL_TIERS = "all"
# How much of the year counts as the season of a day, in days, and what other days count beside it.
_SEASON_DAYS, _OFF_SEASON = 30.0, 0.1


# What the boosting of purchases and that of orders share; they differ in the number of trees.
_SMALL_TREES: dict[str, Any] = {
    "max_leaf_nodes": 8,
    "learning_rate": 0.12,
    "min_samples_leaf": 100,
    "l2_regularization": 10.0,
    "max_features": 0.5,
    "early_stopping": False,
}


@dataclass(frozen=True)
class ValueSettings:
    """Everything about this training that may be set."""

    n_origins: int = 3  # test days of purchases
    n_value_origins: int = 6  # and of value
    # Test days whose outcomes teach the intervals: a year and more, where there is one. Learnt from
    # the last six, 80 % intervals of 90 days covered 71 % of Online Retail II in 2011.
    n_interval_origins: int = 20
    max_rows: int = 30_000
    snapshot_spacing_days: int = 21
    calibration_days: int = 28
    min_rows: int = 500  # of a training; below, a fit is noise
    min_purchases: int = 50  # rows with a purchase, in training and in test
    min_repeaters: int = 50  # customers with two days of orders, for MBG/NBD
    n_resamples: int = 200
    # which challenger of the quarter this one is, and so which error it may spend
    attempt: int = 1


@dataclass(frozen=True)
class ValueChampion:
    """The model of value that serves today, as far as a comparison needs it."""

    version: int
    recipe: str
    purchase_recipes: Mapping[str, str]  # window in days -> recipe
    last_matured_date: date
    model: CustomerValueModel


@dataclass(frozen=True)
class ValueResult:
    """All that a training found out. Nothing in it names a customer.

    metrics: flat names, e.g. purchase_30d_log_loss_boosting, value_90d_gini_average. intervals:
    the same names, where there is one. deciles: window -> table of expected and actual revenue.
    coverages: how much the 80 % intervals cover, of all and by value tier (`COVERAGE_COLUMNS`).
    """

    as_of: date
    model: CustomerValueModel
    recipe: str
    purchase_recipes: Mapping[str, str]
    last_matured_date: date
    training_row_count: int
    is_compared: bool
    reason: str
    metrics: Mapping[str, float]
    intervals: Mapping[str, Interval]
    deciles: Mapping[int, pd.DataFrame]
    coverages: pd.DataFrame
    origins: Mapping[str, list[date]]
    data_digest: str
    promote: bool = True  # whether it becomes champion; reason says why
    spent_alpha: float | None = None  # of the budget of the quarter, where a new recipe was tested
    attempt: int = 1


@dataclass
class _Found:
    """What is filled in on the way."""

    metrics: dict[str, float] = field(default_factory=dict)
    intervals: dict[str, Interval] = field(default_factory=dict)
    deciles: dict[int, pd.DataFrame] = field(default_factory=dict)
    coverages: list[pd.DataFrame] = field(default_factory=list)
    origins: dict[str, list[date]] = field(default_factory=dict)
    bands: dict[str, Bands] = field(default_factory=dict)
    tested: list[int] = field(default_factory=list)
    promote: bool = True
    reason: str = ""
    spent_alpha: float | None = None
    refused: list[str] = field(default_factory=list)
    not_judged: list[str] = field(default_factory=list)  # purchases without the champion's to match
    rows: int = 0


def days_needed(last: date, first: date, step_days: int = 30) -> list[date]:
    """Return the days of `customer_status` that a training as of `last` asks for, ascending.

    Every `step_days` back from the last: with a step of 30 the outcomes of 30 and 90 days stand on
    the same days. A week after each of them, for the outcome of seven days.
    """
    days, day = set(), last
    while day >= first:
        days |= {day, day + timedelta(days=PURCHASE_WINDOWS[0])}
        day -= timedelta(days=step_days)
    # of these the outcome of a year stands on the last day, and on one a quarter before it
    year, quarter = VALUE_WINDOWS[-1], 3 * step_days
    days |= {last - timedelta(days=year + n * quarter) for n in range(2)}
    return sorted(day for day in days if first <= day <= last)


def choose_days(days: Iterable[date], as_of: date, step_days: int = 30) -> list[date]:
    """Return of the published days those that a training as of `as_of` reads, ascending.

    Where a shop has every day it takes what `days_needed` names, so that a year of daily partitions
    costs what a year of monthly ones does.
    """
    have = sorted(day for day in set(days) if day <= as_of)
    if not have:
        return []
    wanted = set(days_needed(have[-1], have[0], step_days))
    return [day for day in have if day in wanted]


def train_value(
    status: pd.DataFrame,
    as_of: date,
    seed: int,
    *,
    champion: ValueChampion | None = None,
    settings: ValueSettings | None = None,
    on_progress: Callable[[str], None] = lambda message: None,
) -> ValueResult:
    """Compare the recipes out of time, choose, and refit on all that has matured by `as_of`.

    status: `customer_status` of several days (see `days_needed`), money as floats; days after
    `as_of` are ignored.

    What serves is compared on the same rows: the frozen champion at test days to which it is out of
    time, its recipe refitted at others. A new recipe must expect the revenue of 90 days better,
    beyond doubt and within the budget of the quarter; the champion's own recipe on newer outcomes
    must only lose no more than `DEVIANCE_MARGIN`; and purchases must not be expected worse.

    Where nothing can be compared and nothing serves, MBG/NBD and Gamma-Gamma serve as they are:
    they need purchase histories and no outcome. They give no intervals, and no probability for
    prospects.

    Raises:
        TrainingSkipped: too few customers, purchases or days for that; the reason is told, and what
            serves stays. Or no recipe is better than the same number for everybody.
        FeatureError: status lacks a column.
    """
    settings = settings or ValueSettings()
    frames = _by_day(status, as_of)
    if not frames:
        raise TrainingSkipped(f"no customer_status is published by {as_of}")
    last = max(frames)
    purchases = _purchases(frames[last], settings, f"as of {last}")
    found = _Found()
    with one_thread(), warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        # of a column without a value there is no variance either
        warnings.filterwarnings("ignore", message="Degrees of freedom", category=RuntimeWarning)
        warnings.filterwarnings("ignore", message="All-NaN slice", category=RuntimeWarning)
        propensities, categories, chosen = {}, {}, {}
        for window in PURCHASE_WINDOWS:
            on_progress(f"purchases within {window} days")
            fitted = _purchase_model(
                frames, window, last, purchases, seed, settings, found, champion
            )
            if fitted is not None:
                chosen[str(window)], propensities[str(window)], split = fitted
                if split is not None:
                    categories[str(window)] = split
        on_progress("orders and revenue")
        recipe, boosters = _value_model(frames, last, purchases, seed, settings, found, champion)
    is_compared = bool(found.tested) and len(propensities) == len(PURCHASE_WINDOWS)
    if is_compared:
        told = ", ".join(f"{window} days by {name}" for window, name in chosen.items())
        reason = f"{found.reason}. Purchases: {told}"
    else:
        reason = "; ".join(dict.fromkeys(found.refused))
        if champion is not None:
            raise TrainingSkipped(f"{reason}; what serves stays")
        reason = f"{reason}; purchase histories alone serve until outcomes can be compared"
        recipe, boosters, found.bands, found.tested = VALUE_RECIPES[0], {}, {}, []
        found.promote, found.spent_alpha = True, None
        propensities, categories, chosen = {}, {}, {}
    buyers = frames[last][_is_buyer(frames[last])]
    model = CustomerValueModel(
        purchases=purchases,
        recipe=recipe,
        boosters=boosters,
        bands=found.bands,
        propensities=propensities,
        categories=categories,
        margin_rate=_shop_margin_rate(buyers),
        tested_windows=tuple(found.tested),
    )
    _describe_histories(buyers, purchases, found)
    return ValueResult(
        as_of=as_of,
        model=model,
        recipe=recipe,
        purchase_recipes=chosen,
        last_matured_date=last,
        training_row_count=found.rows,
        is_compared=is_compared,
        promote=found.promote,
        reason=reason,
        spent_alpha=found.spent_alpha,
        attempt=settings.attempt,
        metrics={k: v for k, v in found.metrics.items() if np.isfinite(v)},
        intervals=found.intervals,
        deciles=found.deciles,
        coverages=pd.concat(
            found.coverages or [pd.DataFrame(columns=list(COVERAGE_COLUMNS))], ignore_index=True
        ),
        origins=found.origins,
        data_digest=_digest(frames),
    )


# -- what came of a snapshot -----------------------------------------------------------------------


def outcomes(before: pd.DataFrame, after: pd.DataFrame, window: int) -> pd.DataFrame:
    """Return order_count, revenue_amount, bought, bought_main_category of each row of `before`.

    before, after: `customer_status` of S and of S + window. The index is that of `before`; NaN for
    customers who are no longer known (erased in between).
    """
    later = after.set_index("customer_key").reindex(before["customer_key"])
    known = later["order_count_lifetime"].notna().to_numpy()
    bought = (later["days_since_last_order"].astype("float64") < window).to_numpy()
    found = pd.DataFrame(index=before.index)
    found["bought"] = np.where(known, bought, np.nan)
    for name in ("order_count", "revenue_amount"):
        column = f"{name}_{window}d"
        values = later[column].astype("float64").to_numpy() if column in later else np.nan
        found[name] = np.where(known, values, np.nan)
    found["bought_main_category"] = np.nan
    column = f"categories_{window}d"
    if column in later:
        wanted = before["main_category"].to_numpy(dtype=object)
        inside = [
            _holds(text, category)
            for text, category in zip(later[column].to_numpy(dtype=object), wanted, strict=True)
        ]
        has_category = before["main_category"].notna().to_numpy()
        found["bought_main_category"] = np.where(known & has_category, inside, np.nan)
    return found


def _holds(categories: object, category: object) -> float:
    if not isinstance(categories, str) or not isinstance(category, str):
        return 0.0
    return float(category.replace(CATEGORY_SEPARATOR, "/") in categories.split(CATEGORY_SEPARATOR))


@dataclass(frozen=True)
class _Rows:
    """Rows of some snapshots: what was known, what came, and the design matrix."""

    known: pd.DataFrame
    came: pd.DataFrame
    X: pd.DataFrame

    def where(self, mask: npt.NDArray) -> _Rows:
        return _Rows(self.known[mask], self.came[mask], self.X[mask])


def _rows(
    frames: Mapping[date, pd.DataFrame],
    days: Iterable[date],
    window: int,
    purchases: Purchases,
    max_rows: int | None,
    salt: str,
) -> _Rows:
    days = list(days)
    available = sum(len(frames[day]) for day in days)
    parts = []
    for day in days:
        before = frames[day]
        if max_rows is not None and available > max_rows:
            before = before[_draws(before["customer_key"], day, salt) < max_rows / available]
        came = outcomes(before, frames[day + timedelta(days=window)], window).add_prefix("next_")
        parts.append(pd.concat([before, came], axis=1)[came["next_bought"].notna()])
    rows = pd.concat(parts, ignore_index=True)
    came = rows[[name for name in rows.columns if name.startswith("next_")]]
    return _Rows(
        rows, came.rename(columns=lambda name: name.removeprefix("next_")), design(rows, purchases)
    )


def _draws(customer_key: pd.Series, day: date, salt: str) -> Array:
    """Return one number in [0, 1) per customer and day, by which rows are chosen in any order.

    A checksum, since it is 30 times as fast as the hash of ml.validation, of which a training of
    20,000 customers would make two million.
    """
    start = zlib.crc32(f"{salt}|{day}|".encode())
    return np.array([zlib.crc32(key.encode(), start) for key in customer_key]) * 2.0**-32


def _matured(frames: Mapping[date, pd.DataFrame], window: int, spacing_days: int) -> list[date]:
    """Return the days of which the outcome over `window` is known, at least so far apart."""
    return thin([d for d in frames if d + timedelta(days=window) in frames], spacing_days)


def _splits(
    frames: Mapping[date, pd.DataFrame],
    window: int,
    last: date,
    n_origins: int,
    settings: ValueSettings,
) -> tuple[Split | None, list[Split]]:
    """Return the split of the refit and those of the origins, four weeks apart or more."""
    days = _matured(frames, window, settings.snapshot_spacing_days)
    kwargs = {"later_days": settings.calibration_days}
    origins = rolling_origins(days, last, window, n_origins, spacing_days=28, **kwargs)
    return split_at(days, last, window, **kwargs), origins


def _purchases(frame: pd.DataFrame, settings: ValueSettings, when: str) -> Purchases:
    buyers = frame[_is_buyer(frame)]
    repeaters = int((histories_of(buyers).frequency > 0).sum()) if len(buyers) else 0
    if repeaters < settings.min_repeaters:
        raise TrainingSkipped(
            f"{repeaters} of {len(buyers)} buyers {when} have bought on two days, at least "
            f"{settings.min_repeaters} are needed to learn how often customers come back"
        )
    try:
        return fit_purchase_model(buyers)
    except FitError as error:
        raise TrainingSkipped(f"purchase histories {when}: {error}") from error


# -- purchases -------------------------------------------------------------------------------------


def purchase_candidates(window: int, seed: int) -> dict[str, Pipeline]:
    """Return the unfitted classifiers of a purchase within `window` days, simplest first.

    Each takes the design matrix. Prospects have no history: the indicator of a missing value gives
    them a level of their own.
    """

    def line(name: str, *steps: tuple[str, Any]) -> Pipeline:
        return Pipeline(
            [
                ("take", ColumnTransformer([("take", "passthrough", [name])])),
                *steps,
                ("impute", SimpleImputer(add_indicator=True)),
                ("scale", StandardScaler()),
                ("model", LogisticRegression(max_iter=1000)),
            ]
        )

    return {
        "recency_rule": line("days_since_last_order", ("log", SignedLog())),
        "buy_till_you_die": line(f"purchase_log_odds_{window}d"),
        "boosting": Pipeline(
            [
                ("told", VarianceThreshold()),  # a shop without events has no column of them
                (
                    "model",
                    BoostingClassifier(
                        max_iter=50,
                        random_state=seed,
                        **_SMALL_TREES,
                    ),
                ),
            ]
        ),
    }


def _category_candidate() -> Pipeline:
    return Pipeline(
        [
            ("log", SignedLog()),
            ("impute", SimpleImputer()),
            ("scale", StandardScaler()),
            ("model", LogisticRegression(max_iter=1000)),
        ]
    )


def _purchase_model(
    frames: Mapping[date, pd.DataFrame],
    window: int,
    last: date,
    purchases: Purchases,
    seed: int,
    settings: ValueSettings,
    found: _Found,
    champion: ValueChampion | None,
) -> tuple[str, CalibratedOnLaterSnapshots, Pipeline | None] | None:
    """Return the chosen recipe, its refit and the split by category; None if none is possible."""
    name = f"purchase_{window}d"
    refit, origins = _splits(frames, window, last, settings.n_origins, settings)
    if refit is None or not origins:
        found.refused.append(
            f"purchases within {window} days: {len(frames)} days of customer_status up to {last} "
            f"leave no test day {window} days after calibration days, themselves after training "
            "days"
        )
        return None
    recipes = purchase_candidates(window, seed)
    blocks = []
    for split in origins:
        then = _purchases(frames[split.test], settings, f"as of {split.test}")
        data = _train_and_later(frames, split, window, then, seed, settings)
        if isinstance(data, str):
            found.refused.append(f"purchases within {window} days: {data}")
            continue
        test = _rows(frames, [split.test], window, then, None, "")
        if test.came["bought"].sum() < settings.min_purchases:
            found.refused.append(
                f"{int(test.came['bought'].sum())} customers bought within {window} days of "
                f"{split.test}, at least {settings.min_purchases} are needed"
            )
            continue
        block = test.known[["snapshot_date", "customer_key"]].assign(
            bought=test.came["bought"].to_numpy(),
            main=test.came["bought_main_category"].to_numpy(),
            has_history=test.X["days_since_last_order"].notna().to_numpy(),
            is_dormant=(test.known["lifecycle"] == "dormant").to_numpy(),
        )
        for recipe, candidate in recipes.items():
            block[recipe] = _calibrated(candidate, *data).predict_proba(test.X)[:, 1]
        if champion is not None:
            block[_CHAMPION] = _purchases_of_champion(champion, test, block, window)
        by_category = _fit_categories(data)
        block["main_share"] = (
            np.nan
            if by_category is None
            else by_category.predict_proba(category_matrix(test.known))[:, 1]
        )
        blocks.append(block)
    if not blocks:
        return None
    data = _train_and_later(frames, refit, window, purchases, seed, settings)
    if isinstance(data, str):
        found.refused.append(f"purchases within {window} days: {data}")
        return None
    predictions = pd.concat(blocks, ignore_index=True)
    found.origins[name] = sorted(set(predictions["snapshot_date"]))
    chosen = _judge_purchases(predictions, name, settings, seed, found)
    found.rows = max(found.rows, len(data[0].X) + len(data[1].X))
    return chosen, _calibrated(recipes[chosen], *data), _fit_categories(data)


def _train_and_later(
    frames: Mapping[date, pd.DataFrame],
    split: Split,
    window: int,
    purchases: Purchases,
    seed: int,
    settings: ValueSettings,
) -> tuple[_Rows, _Rows] | str:
    """Return the rows to fit on and those to calibrate on, or what is missing."""
    train = _rows(frames, split.earlier, window, purchases, settings.max_rows, f"train|{seed}")
    later = _rows(frames, split.later, window, purchases, settings.max_rows, f"calibrate|{seed}")
    for part, rows in (("training", train), ("calibration", later)):
        bought = int(rows.came["bought"].sum())
        if len(rows.X) < settings.min_rows or bought < settings.min_purchases:
            return (
                f"as of {split.test}: {len(rows.X)} {part} rows, {bought} with a purchase; at "
                f"least {settings.min_rows} and {settings.min_purchases} are needed"
            )
        if bought == len(rows.X):
            return f"as of {split.test}: all {bought} {part} rows have a purchase"
    return train, later


def _calibrated(candidate: Pipeline, train: _Rows, later: _Rows) -> CalibratedOnLaterSnapshots:
    fitted = clone(candidate).fit(train.X, train.came["bought"].to_numpy().astype(int))
    return CalibratedOnLaterSnapshots(candidate).calibrate(
        fitted, fitted.predict_proba(later.X)[:, 1], later.came["bought"].to_numpy().astype(int)
    )


def _fit_categories(data: tuple[_Rows, _Rows]) -> Pipeline | None:
    """Return P(main category | purchase), of all rows with a purchase; None where none is known."""
    known = pd.concat([part.known for part in data], ignore_index=True)
    came = pd.concat([part.came for part in data], ignore_index=True)
    used = (came["bought"] == 1) & came["bought_main_category"].notna()
    y = came.loc[used, "bought_main_category"].astype(int).to_numpy()
    if min((y == 0).sum(), (y == 1).sum()) < 20:
        return None
    return _category_candidate().fit(category_matrix(known[used]), y)


def _judge_purchases(
    predictions: pd.DataFrame, name: str, settings: ValueSettings, seed: int, found: _Found
) -> str:
    """Measure the recipes on the same rows, and return the one of the lowest log loss.

    Raises:
        TrainingSkipped: it is not better than the base rate beyond doubt.
    """
    y = predictions["bought"].to_numpy().astype(int)
    losses = {recipe: log_losses(y, predictions[recipe].to_numpy()) for recipe in PURCHASE_RECIPES}
    chosen = min(PURCHASE_RECIPES, key=lambda recipe: float(losses[recipe].mean()))
    for recipe in PURCHASE_RECIPES:
        p = predictions[recipe].to_numpy()
        found.metrics[f"{name}_log_loss_{recipe}"] = float(losses[recipe].mean())
        found.metrics[f"{name}_roc_auc_{recipe}"] = roc_auc(y, p)
        found.metrics[f"{name}_average_precision_{recipe}"] = average_precision(y, p)
        found.metrics[f"{name}_bias_{recipe}"] = aggregate_bias(y, p)
    found.metrics[f"{name}_base_rate"] = float(y.mean())
    dormant = predictions["is_dormant"].to_numpy()
    if 0 < y[dormant].sum() < dormant.sum():
        p = predictions[chosen].to_numpy()[dormant]
        found.metrics[f"{name}_roc_auc_dormant"] = roc_auc(y[dormant], p)
        found.metrics[f"{name}_bias_dormant"] = aggregate_bias(y[dormant], p)
        found.metrics[f"{name}_base_rate_dormant"] = float(y[dormant].mean())
    constant = log_losses(y, np.full(len(y), y.mean()))
    others = {"no_skill": constant} | {r: v for r, v in losses.items() if r != chosen}
    for base, difference in _differences(losses[chosen], others, predictions, settings, seed):
        found.intervals[f"{name}_log_loss_minus_{base}"] = difference
    better = found.intervals[f"{name}_log_loss_minus_no_skill"]
    if not better.high < 0:
        raise TrainingSkipped(
            f"{name}: the best recipe, {chosen}, is not better than the base rate beyond doubt "
            f"(log loss {better}); what serves stays"
        )
    for measure, of in (("roc_auc", roc_auc), ("average_precision", average_precision)):
        p = predictions[chosen].to_numpy()
        draws = resampled(
            of, (y, p), predictions["customer_key"], min(settings.n_resamples, 50), seed
        )
        found.intervals[f"{name}_{measure}"] = interval(of(y, p), draws)
    if _CHAMPION in predictions:
        judged = predictions[_CHAMPION].notna().to_numpy()
        rows = predictions[judged]
        if rows.empty:
            found.not_judged.append(name)
        else:
            theirs = {_CHAMPION: log_losses(y[judged], rows[_CHAMPION].to_numpy())}
            for base, difference in _differences(
                losses[chosen][judged], theirs, rows, settings, seed
            ):
                found.intervals[f"{name}_log_loss_minus_{base}"] = difference
    with_category = predictions["main"].notna() & predictions["main_share"].notna()
    if with_category.any():
        rows = predictions[with_category]
        y_main, p_main = rows["main"].to_numpy(), (rows[chosen] * rows["main_share"]).to_numpy()
        found.metrics[f"{name}_main_category_bias"] = aggregate_bias(y_main, p_main)
        if 0 < y_main.sum() < len(y_main):
            found.metrics[f"{name}_main_category_roc_auc"] = roc_auc(y_main, p_main)
    return chosen


def _differences(
    chosen: Array,
    others: Mapping[str, Array],
    rows: pd.DataFrame,
    settings: ValueSettings,
    seed: int,
) -> list[tuple[str, Interval]]:
    values = np.column_stack([chosen - other for other in others.values()])
    draws = customer_bootstrap(
        values, rows["customer_key"], n_resamples=settings.n_resamples, seed=seed
    )
    return [(name, interval(values[:, i].mean(), draws[:, i])) for i, name in enumerate(others)]


# -- value -----------------------------------------------------------------------------------------


def _booster(seed: int) -> Pipeline:
    return Pipeline(
        [
            ("told", VarianceThreshold()),
            (
                "model",
                BoostingRegressor(
                    loss="poisson",
                    max_iter=40,
                    random_state=seed,
                    **_SMALL_TREES,
                ),
            ),
        ]
    )


def _value_model(
    frames: Mapping[date, pd.DataFrame],
    last: date,
    purchases: Purchases,
    seed: int,
    settings: ValueSettings,
    found: _Found,
    champion: ValueChampion | None,
) -> tuple[str, dict[str, Any]]:
    """Return the chosen recipe, and the boosters; fill in bands, metrics and the decision."""
    splits = {
        w: _splits(frames, w, last, settings.n_interval_origins, settings) for w in LEARNT_WINDOWS
    }
    blocks: dict[int, pd.DataFrame] = {}
    for window in LEARNT_WINDOWS:
        tests = [split.test for split in splits[window][1]]
        block = _expected_at(frames, window, tests, seed, settings, found, champion)
        if block is not None:
            blocks[window] = block
    longest = VALUE_WINDOWS[-1]
    base = LEARNT_WINDOWS[-1]
    far = thin(_matured(frames, longest, settings.snapshot_spacing_days), base)
    block = _expected_at(frames, longest, far, seed, settings, found, None)
    if block is not None:
        blocks[longest] = block
    if not set(LEARNT_WINDOWS) <= set(blocks):
        return VALUE_RECIPES[0], {}
    judged = {w: _latest(block, settings.n_value_origins) for w, block in blocks.items()}
    came = judged[base]["revenue"].to_numpy()
    recipe = min(
        VALUE_RECIPES,
        key=lambda r: float(deviances(came, _revenue(judged[base], r), 1.5).mean()),
    )
    recipe = _decide(judged[base], recipe, champion, last, settings, seed, found)
    for window in blocks:
        _judge_value(judged[window], window, recipe, settings, seed, found)
        _intervals(blocks, judged[window], window, recipe, last, settings, seed, found)
    if longest not in blocks:  # continued from the longest that is tested, and marked
        for measure in ("orders", "revenue"):
            found.bands[f"{measure} {longest}"] = found.bands[f"{measure} {base}"]
    boosters = {}
    for window in LEARNT_WINDOWS:
        refit = splits[window][0]
        assert refit is not None
        if recipe != VALUE_RECIPES[0]:
            boosters[str(window)] = _fit_orders(frames, refit, window, purchases, seed, settings)
    return recipe, boosters


def _expected_at(
    frames: Mapping[date, pd.DataFrame],
    window: int,
    tests: list[date],
    seed: int,
    settings: ValueSettings,
    found: _Found,
    champion: ValueChampion | None,
) -> pd.DataFrame | None:
    """Return what every recipe expected of each buyer at each test day, and what came; or None."""
    days = _matured(frames, window, settings.snapshot_spacing_days)
    parts, refused = [], []
    for test_day in tests:
        split = split_at(days, test_day, window, later_days=settings.calibration_days)
        try:
            then = _purchases(frames[test_day], settings, f"as of {test_day}")
        except TrainingSkipped as reason:
            refused.append(str(reason))
            continue
        test = _rows(frames, [test_day], window, then, None, "")
        test = test.where(test.X["days_since_last_order"].notna().to_numpy())
        test = test.where(test.came["revenue_amount"].notna().to_numpy())
        if (test.came["order_count"] > 0).sum() < settings.min_purchases:
            refused.append(
                f"{int((test.came['order_count'] > 0).sum())} customers ordered within {window} "
                f"days of {test_day}, at least {settings.min_purchases} are needed"
            )
            continue
        part = test.known[["snapshot_date", "customer_key"]].assign(
            value_tier=value_tier(test.known),
            orders=test.came["order_count"].to_numpy(),
            revenue=test.came["revenue_amount"].to_numpy(),
        )
        boosters = {}
        if window in LEARNT_WINDOWS and split is not None:
            boosters[str(window)] = _fit_orders(frames, split, window, then, seed, settings)
        amount = test.X["expected_spend"].to_numpy()
        for recipe in VALUE_RECIPES:
            model = CustomerValueModel(then, recipe, boosters, {}, {}, {}, np.nan, ())
            part[f"orders_{recipe}"] = model.expected_orders(test.X, window)
            part[f"revenue_{recipe}"] = part[f"orders_{recipe}"] * amount
        if champion is not None and champion.recipe in VALUE_RECIPES:
            part[f"revenue_{_CHAMPION}"] = _revenue_of_champion(champion, test, part, window)
        parts.append(part)
    if not parts:
        found.refused += refused[-1:]  # the latest day is the likeliest to have enough
        return None
    return pd.concat(parts, ignore_index=True)


def _latest(block: pd.DataFrame, days: int) -> pd.DataFrame:
    """Return the rows of the last test days."""
    latest = sorted(set(block["snapshot_date"]))[-days:]
    return block[block["snapshot_date"].isin(latest)].reset_index(drop=True)


def _is_out_of_time(champion: ValueChampion, rows: pd.DataFrame) -> bool:
    return bool(champion.last_matured_date <= rows["snapshot_date"].min())


def _revenue_of_champion(
    champion: ValueChampion, test: _Rows, part: pd.DataFrame, window: int
) -> Array:
    """Return what the champion expects at a test day, or its recipe refitted where it is young."""
    if not _is_out_of_time(champion, test.known):
        return _revenue(part, champion.recipe)
    X = design(test.known, champion.model.purchases)
    return champion.model.expected_orders(X, window) * X["expected_spend"].to_numpy()


def _purchases_of_champion(
    champion: ValueChampion, test: _Rows, block: pd.DataFrame, window: int
) -> Array:
    """Return the champion's purchase probabilities, or its recipe's; NaN where it gives none.

    One without a model of purchases serves MBG/NBD itself, and of prospects nothing. A recipe that
    is no longer a candidate, of a champion too young to be judged itself, gives none at all.
    """
    serves = champion.model.propensities.get(str(window))
    if serves is None:
        of = champion.model.purchases
        X = design(test.known, of) if _is_out_of_time(champion, test.known) else test.X
        return sigmoid(X[f"purchase_log_odds_{window}d"].to_numpy())
    if not _is_out_of_time(champion, test.known):
        recipe = champion.purchase_recipes[str(window)]
        return block[recipe].to_numpy() if recipe in block else np.full(len(block), np.nan)
    X = design(test.known, champion.model.purchases)
    return np.asarray(serves.predict_proba(X)[:, 1])


def _decide(
    block: pd.DataFrame,
    best: str,
    champion: ValueChampion | None,
    last: date,
    settings: ValueSettings,
    seed: int,
    found: _Found,
) -> str:
    """Return the recipe to be registered; fill in whether it becomes champion, and why.

    block: what was expected of `LEARNT_WINDOWS[-1]` days. As of churn (ml.training): the best, if
    it is a new recipe, must be superior; if it is not, the champion's own recipe on newer outcomes
    follows it, where it is no worse.
    """
    if champion is None:
        found.reason = f"first champion: {best} expects revenue best, out of time"
        return best
    who = f"champion version {champion.version} ({champion.recipe})"
    if champion.recipe not in VALUE_RECIPES:
        found.promote = False
        found.reason = f"{who} stays: its recipe is no longer a candidate; promote by hand"
        return best
    y = block["revenue"].to_numpy()
    theirs = deviances(y, _revenue(block, _CHAMPION), 1.5)
    boot = {"n_resamples": settings.n_resamples, "seed": seed}

    def against(recipe: str) -> tuple[Interval, float]:
        values = deviances(y, _revenue(block, recipe), 1.5) - theirs
        return paired_difference(values, block["customer_key"], **boot)

    chosen, told = best, ""
    if best != champion.recipe:
        found.spent_alpha = alpha_of(settings.attempt)
        difference, p = against(best)
        told = (
            f"Deviance of {best} minus the champion's on the same {len(block)} rows: {difference}, "
            f"p = {p:.2g} at an error of {found.spent_alpha:.2g} (challenger {settings.attempt} of "
            "the quarter)"
        )
        if p >= found.spent_alpha:
            chosen = champion.recipe
    worse = [
        f"{name.removesuffix(f'_log_loss_minus_{_CHAMPION}')} ({of})"
        for name, of in found.intervals.items()
        if name.startswith("purchase_") and name.endswith(_CHAMPION) and of.low > 0
    ]
    if worse:
        found.promote = False
        found.reason = f"{who} stays: purchases are expected worse: {', '.join(worse)}. {told}"
    elif found.not_judged:
        found.promote = False
        found.reason = (
            f"{who} stays: {', '.join(found.not_judged)} cannot be compared with what it serves: "
            f"the recipe is no longer a candidate; promote by hand. {told}"
        )
    elif chosen != champion.recipe:
        found.reason = f"{chosen} replaces {who}. {told}"
    elif champion.last_matured_date >= last:
        found.promote = False
        found.reason = f"{who} stays: nothing has matured since it was fitted. {told}"
    else:
        difference, _ = against(chosen)
        margin = DEVIANCE_MARGIN * float(theirs.mean())
        told = f"Deviance of the refitted {chosen} minus the champion's: {difference}. {told}"
        found.promote = difference.high < margin
        found.reason = (
            f"{chosen} refreshes {who}. {told}"
            if found.promote
            else f"{who} stays: its recipe on newer outcomes may lose {margin:.3f} or more. {told}"
        )
    found.reason = found.reason.strip().removesuffix(".")
    return chosen


def _fit_orders(
    frames: Mapping[date, pd.DataFrame],
    split: Split,
    window: int,
    purchases: Purchases,
    seed: int,
    settings: ValueSettings,
) -> Pipeline:
    """Return the booster of orders, fitted on all that had matured by the split.

    Nothing is calibrated on the later snapshots. Levels of orders learnt there were tried on Online
    Retail II and made 18 % too few of 90 days, at three test days at which MBG/NBD without them
    made 5 % too many: they carry the season of the quarter before.
    """
    days = split.matured
    rows = _rows(frames, days, window, purchases, settings.max_rows, f"value|{seed}")
    rows = rows.where(rows.X["days_since_last_order"].notna().to_numpy())
    rows = rows.where(rows.came["order_count"].notna().to_numpy())
    return _booster(seed).fit(rows.X, rows.came["order_count"].to_numpy())


def _revenue(block: pd.DataFrame, recipe: str) -> Array:
    return block[f"revenue_{recipe}"].to_numpy()


def _judge_value(
    block: pd.DataFrame,
    window: int,
    recipe: str,
    settings: ValueSettings,
    seed: int,
    found: _Found,
) -> None:
    """Fill in metrics, their intervals and deciles of a window.

    Raises:
        TrainingSkipped: the recipe expects revenue no better than the same for everybody.
    """
    name = f"value_{window}d"
    found.origins[name] = sorted(set(block["snapshot_date"]))
    found.tested.append(window)
    y = block["revenue"].to_numpy()
    errors = {r: deviances(y, _revenue(block, r), 1.5) for r in VALUE_RECIPES}
    for one in VALUE_RECIPES:
        expected = _revenue(block, one)
        orders = block[f"orders_{one}"].to_numpy()
        found.metrics[f"{name}_deviance_{one}"] = float(errors[one].mean())
        found.metrics[f"{name}_bias_{one}"] = aggregate_bias(y, expected)
        found.metrics[f"{name}_gini_{one}"] = normalised_gini(y, expected)
        found.metrics[f"{name}_orders_bias_{one}"] = aggregate_bias(
            block["orders"].to_numpy(), orders
        )
    others = {"the_mean": deviances(y, np.full(len(y), y.mean()), 1.5)}
    others |= {r: v for r, v in errors.items() if r != recipe}
    for base, difference in _differences(errors[recipe], others, block, settings, seed):
        found.intervals[f"{name}_deviance_minus_{base}"] = difference
    better = found.intervals[f"{name}_deviance_minus_the_mean"]
    if not better.high < 0:
        raise TrainingSkipped(
            f"{name}: the best recipe, {recipe}, does not expect revenue better than the mean of "
            f"all beyond doubt (deviance {better}); what serves stays"
        )
    pair = (y, _revenue(block, recipe))
    for measure, of in (("bias", aggregate_bias), ("gini", normalised_gini)):
        draws = resampled(of, pair, block["customer_key"], min(settings.n_resamples, 50), seed)
        found.intervals[f"{name}_{measure}"] = interval(of(*pair), draws)
    found.deciles[window] = deciles(*pair)


# -- intervals -------------------------------------------------------------------------------------


def season_weights(days: pd.Series, day: date) -> Array:
    """Return how much what came of each of `days` counts for a customer of `day`.

    The level of a shop is the season's: 90 days of Online Retail II brought a quarter more than
    expected after September 2010, and again a year later, and half of it after Christmas. So a day
    at the same time of any year counts eleven times one half a year away; those count, too, since
    one year of a season is no law.
    """
    weight = {}
    for one in days.unique():
        apart = abs((day - one).days) % 365.25
        away = min(apart, 365.25 - apart)
        weight[one] = _OFF_SEASON + float(np.exp(-0.5 * (away / _SEASON_DAYS) ** 2))
    return days.map(weight).to_numpy(dtype="float64")


def bands_for(block: pd.DataFrame, measure: str, recipe: str, day: date) -> Bands:
    """Return the bands of a measure for the customers of `day`, of what came of earlier ones.

    block: snapshot_date, the measure, and `<measure>_<recipe>`, what was expected of it.
    """
    return fit_bands(
        block[measure].to_numpy(),
        block[f"{measure}_{recipe}"].to_numpy(),
        season_weights(block["snapshot_date"], day),
    )


def held_out(
    blocks: Mapping[int, pd.DataFrame], measure: str, recipe: str, window: int, days: Iterable[date]
) -> pd.DataFrame:
    """Return of the customers of each of `days` whether their 80 % interval held what came.

    blocks: window -> what was expected and what came, of this window and of shorter ones: the
    interval is as it serves, no end below that of a shorter window (ml.customer_value.nested) where
    the shorter one was expected of the same day. Learnt from the outcomes that were known by that
    day only. Columns: snapshot_date, customer_key, value_tier, is_covered, and is_open, whether the
    interval is not [0, 0]. Empty where no two days lie a window apart.
    """
    block, name = blocks[window], f"{measure}_{recipe}"
    columns = ["snapshot_date", "customer_key", "value_tier"]
    parts = [pd.DataFrame(columns=[*columns, "is_covered", "is_open"])]
    for day in days:
        here = block[block["snapshot_date"] == day]
        expected: dict[int, Array] = {}
        bands: dict[int, Bands | None] = {}
        for one in (w for w in blocks if w <= window):
            then = blocks[one]
            known = then[then["snapshot_date"] <= day - timedelta(days=one)]
            if known.empty:
                continue
            bands[one] = bands_for(known, measure, recipe, day)
            of_day = then[then["snapshot_date"] == day].set_index("customer_key")[name]
            expected[one] = of_day.reindex(here["customer_key"]).to_numpy(dtype="float64")
        if window not in bands:
            continue
        _, low, high = nested(expected, bands)[window]
        inside = is_covered(here[measure].to_numpy(), low, high)
        parts.append(here[columns].assign(is_covered=inside, is_open=high > 0))
    return pd.concat(parts[1:] or parts, ignore_index=True)


def coverages(
    held: pd.DataFrame, window: int, measure: str, *, n_resamples: int, seed: int
) -> pd.DataFrame:
    """Return the share of customers whose interval held what came: `COVERAGE_COLUMNS`.

    held: as `held_out` returns it, not empty. coverage: of all customers. coverage_attainable: of
    those whose interval is not [0, 0], the attainable_share: of a group more than four fifths of
    whom bring nothing, no interval covers 80 %, but more. Each with its 95 % interval by customer;
    a tier without customers, or without an open interval, has none.
    """
    covered, open_ = (held[name].to_numpy(dtype="float64") for name in ("is_covered", "is_open"))
    tiers: dict[str, Array] = {ALL_TIERS: np.ones(len(held))}
    tiers |= {tier: np.asarray(held["value_tier"] == tier, "float64") for tier in TIERS}
    columns = [c for own in tiers.values() for c in (own, own * covered, own * open_)]
    columns += [own * open_ * covered for own in tiers.values()]
    sums = np.column_stack(columns)
    draws = customer_bootstrap(sums, held["customer_key"], n_resamples=n_resamples, seed=seed)
    means = sums.mean(axis=0)
    rows = []
    for i, (tier, own) in enumerate(tiers.items()):
        count, inside, opened = 3 * i, 3 * i + 1, 3 * i + 2
        both = 3 * len(tiers) + i
        if not own.any():
            continue
        row = {"window_days": window, "measure": measure, "tier": tier, "row_count": int(own.sum())}
        row["attainable_share"] = means[opened] / means[count]
        for name, part, whole in (
            ("coverage", inside, count),
            ("coverage_attainable", both, opened),
        ):
            found = Interval(np.nan, np.nan, np.nan)
            if means[whole] > 0:
                some = draws[:, whole] > 0  # a few customers are in no resample now and then
                drawn = draws[some, part] / draws[some, whole]
                found = interval(means[part] / means[whole], drawn)
            row |= {name: found.estimate, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(row)
    return pd.DataFrame(rows, columns=list(COVERAGE_COLUMNS))


def _intervals(
    blocks: Mapping[int, pd.DataFrame],
    judged: pd.DataFrame,
    window: int,
    recipe: str,
    last: date,
    settings: ValueSettings,
    seed: int,
    found: _Found,
) -> None:
    """Fill in the bands that serve from `last` on, and how much such bands covered before."""
    days = sorted(set(judged["snapshot_date"]))
    for measure in ("orders", "revenue"):
        found.bands[f"{measure} {window}"] = bands_for(blocks[window], measure, recipe, last)
        held = held_out(blocks, measure, recipe, window, days)
        if held.empty:
            continue
        table = coverages(
            held, window, measure, n_resamples=min(settings.n_resamples, 50), seed=seed
        )
        found.coverages.append(table)
        for row in table.to_dict("records"):
            suffix = "" if row["tier"] == ALL_TIERS else f"_tier_{row['tier']}"
            for name in ("coverage", "coverage_attainable", "attainable_share"):
                found.metrics[f"value_{window}d_{measure}_{name}{suffix}"] = row[name]


# -- the rest --------------------------------------------------------------------------------------


def _describe_histories(buyers: pd.DataFrame, purchases: Purchases, found: _Found) -> None:
    """Note the parameters, and whether frequency and amount are independent, as is assumed."""
    model, spend = purchases.purchases, purchases.spend
    for name in ("r", "alpha", "a", "b"):
        found.metrics[f"mbg_nbd_{name}"] = float(getattr(model, name))
    for name in ("p", "q", "v"):
        found.metrics[f"gamma_gamma_{name}"] = float(getattr(spend, name))
    days = histories_of(buyers).frequency + 1
    repeated = days > 1
    amount = buyers["revenue_amount_lifetime"].astype("float64").to_numpy() / days
    found.intervals["frequency_spend_rank_correlation"] = Interval(
        *rank_correlation(days[repeated], amount[repeated])
    )


def _shop_margin_rate(buyers: pd.DataFrame) -> float:
    """Return margin over revenue of the last year, of buyers whose margin is known; else NaN."""
    known = buyers["is_margin_known"].fillna(False).to_numpy(dtype=bool)
    revenue = float(buyers.loc[known, "revenue_amount_365d"].astype("float64").sum())
    margin = float(buyers.loc[known, "margin_amount_365d"].astype("float64").sum())
    return margin / revenue if revenue > 0 else float("nan")


def _is_buyer(frame: pd.DataFrame) -> npt.NDArray:
    return frame["days_since_first_order"].notna().to_numpy()


def _by_day(status: pd.DataFrame, as_of: date) -> dict[date, pd.DataFrame]:
    """Return the rows of each day up to `as_of`, sorted by customer; days without history apart.

    A day published before a column was declared holds null there for everybody: of that day the
    history is not known, and nothing is learnt from it.
    """
    frames = {}
    for day, rows in status.groupby("snapshot_date", sort=True):
        when = day if isinstance(day, date) else pd.Timestamp(str(day)).date()
        if when > as_of or rows["days_since_first_order"].isna().all():
            continue
        frames[when] = rows.sort_values("customer_key", kind="stable").reset_index(drop=True)
    return frames


def _digest(frames: Mapping[date, pd.DataFrame]) -> str:
    """Return a SHA-256 over days, customers and what they had bought: the identity of the data."""
    digest = hashlib.sha256()
    for day, rows in frames.items():
        digest.update(str(day).encode())
        digest.update("\x1f".join(rows["customer_key"]).encode())
        for name in ("order_count_lifetime", "revenue_amount_lifetime"):
            digest.update(rows[name].astype("float64").to_numpy().tobytes())
    return digest.hexdigest()
