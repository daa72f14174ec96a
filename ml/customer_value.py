"""Will a customer buy soon, and what is a customer worth: the model that serves.

Belongs here: what the model sees of a customer (the columns of `customer_status`), the parts that
are stored, and the one function from a day's customers to probabilities, expectations and
intervals. Does not belong here: how the parts are fitted, compared and chosen (ml.value_training);
the margin at risk (ml.value).

Expected revenue is expected orders times the expected amount of an order; expected margin is that
times the customer's margin rate. Orders come from MBG/NBD, from boosted trees, or from the mean of
both, whichever was better out of time; amounts from Gamma-Gamma. A year of orders is what MBG/NBD
says, which needs no label of a year: on Online Retail II, with nine and twelve months of history,
it promised 21 % too much revenue of a year, and 90 days of both continued by it 44 %.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.base import BaseEstimator

from ml.buy_till_you_die import (
    Histories,
    PurchasePopulation,
    SpendPopulation,
    fit_purchases,
    fit_spend,
    histories_of,
)
from ml.estimators import logit, sigmoid
from ml.features import FeatureError
from ml.threads import one_thread

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

#: Days over which orders, revenue and margin are expected; and over which a purchase is.
VALUE_WINDOWS = (30, 90, 365)
PURCHASE_WINDOWS = (7, 30)
#: Windows over which orders are learnt; a year is left to MBG/NBD.
LEARNT_WINDOWS = (30, 90)

#: What a model may see of `customer_status`. A prospect has no history: NaN there.
STATUS_FEATURES: tuple[str, ...] = (
    "days_since_last_order",
    "days_since_first_order",
    "gap_mean_days",
    "order_count_30d",
    "order_count_90d",
    "order_count_365d",
    "order_count_lifetime",
    "revenue_amount_30d",
    "revenue_amount_90d",
    "revenue_amount_365d",
    "revenue_amount_lifetime",
    "days_since_created",
    "event_count_30d",
    "cart_count_30d",
    "days_since_last_event",
    "undelivered_order_count",
    "return_count_30d",
    "open_ticket_count",
    "low_rating_count_90d",
    "contact_count_30d",
)
CATEGORY_FEATURES = ("main_category_share_365d", "order_count_365d", "days_since_last_order")
#: What is read of `customer_status` to serve, and to learn.
SERVED_COLUMNS: tuple[str, ...] = (
    "customer_key",
    "lifecycle",
    *STATUS_FEATURES,
    "margin_amount_365d",
    "is_margin_known",
    "main_category",
    "main_category_share_365d",
)
STATUS_COLUMNS = ("snapshot_date", *SERVED_COLUMNS, "categories_7d", "categories_30d")
NULLABLE = frozenset(
    {
        "days_since_last_order",
        "days_since_first_order",
        "gap_mean_days",
        "days_since_created",
        "days_since_last_event",
        "main_category_share_365d",
    }
)

# A customer's own margin rate counts as much as the shop's after so many orders of mean amount.
MARGIN_PRIOR_ORDERS = 3.0


@dataclass(frozen=True)
class Purchases:
    """When and for how much customers buy, from their histories alone; needs no label.

    orders_per_day: orders on a day with orders, the shop's mean: MBG/NBD counts days.
    """

    purchases: PurchasePopulation
    spend: SpendPopulation
    orders_per_day: float

    def expected_orders(self, buyers: pd.DataFrame, days: float) -> Array:
        """Return the expected number of orders of each buyer within `days`."""
        found = self.purchases.expected_purchases(histories_of(buyers), days)
        return found * self.orders_per_day

    def expected_spend(self, buyers: pd.DataFrame) -> Array:
        """Return the expected amount of an order of each buyer."""
        histories, amount = histories_of(buyers), _amounts(buyers)
        count = histories.frequency + 1
        return self.spend.expected_spend(count, amount / count) / self.orders_per_day

    def purchase_probability(self, buyers: pd.DataFrame, days: float) -> Array:
        """Return P(an order within `days`) of each buyer."""
        return 1 - self.purchases.no_purchase_probability(histories_of(buyers), days)


def fit_purchase_model(buyers: pd.DataFrame) -> Purchases:
    """Fit MBG/NBD and Gamma-Gamma on all who had ever bought by one day.

    Nobody is left out for having been silent long: those are the ones who show how soon customers
    drop out. All days with orders count towards the amount, the first too, so that a one-time buyer
    has one.

    Raises:
        FitError: nobody has bought on two days, or no amount is above zero.
    """
    histories: Histories = histories_of(buyers)
    days = histories.frequency + 1
    spend = fit_spend(days, _amounts(buyers) / days)
    orders = float(buyers["order_count_lifetime"].astype("float64").sum())
    return Purchases(fit_purchases(histories), spend, max(orders / float(days.sum()), 1.0))


@dataclass(frozen=True)
class Bands:
    """80 % intervals by the size of the expectation: quantiles of actual over expected, per band.

    Split conformal, and over time: the quantiles are those of customers of earlier days, whose
    expectation was made by a model that had not seen the outcome (Mondrian conformal prediction,
    Vovk et al. 2005, with bands of the expectation as categories). Where more than a tenth of a
    band brings nothing the lower end is 0, and the upper one the 80 % quantile; where more than
    four fifths do, the interval is [0, 0] and covers more than 80 %: of a mass at zero no interval
    covers less.
    """

    edges: Array  # inner edges of the bands, by expectation, ascending
    low: Array  # of actual / expected
    high: Array

    def apply(self, expected: Array) -> tuple[Array, Array]:
        """Return the lower and the upper end of each expectation's interval."""
        band = np.searchsorted(self.edges, expected, side="right")
        return expected * self.low[band], expected * self.high[band]


def nested(
    expected: Mapping[int, Array], bands: Mapping[int, Bands | None]
) -> dict[int, tuple[Array, Array, Array]]:
    """Return of each window what is expected, and the ends of its interval, as they are served.

    expected: window -> expectations of the same customers. A longer window holds all that a shorter
    one does, yet two models may disagree by a hair, and so may two intervals: neither value may lie
    below that of a shorter window. Without bands the ends are NaN; NaN of a shorter window tells
    nothing of a longer one.
    """

    def no_less(values: Array, than: Array) -> Array:
        return np.where(np.isnan(than), values, np.maximum(values, than))

    found: dict[int, tuple[Array, Array, Array]] = {}
    value = low = high = np.zeros(1)
    for window in sorted(expected):
        value = no_less(expected[window], value)
        own = bands.get(window)
        ends = own.apply(value) if own else (np.full(len(value), np.nan),) * 2
        low, high = no_less(ends[0], low), no_less(ends[1], high)
        found[window] = value, low, high
    return found


def fit_bands(
    actual: Array,
    expected: Array,
    weight: Array | None = None,
    share: float = 0.8,
    n_bands: int = 10,
) -> Bands:
    """Return the bands of customers whose outcome is known; at least 50 customers a band.

    weight: how much each counts as an example of those to come, default alike. With weights fixed
    beforehand the loss of coverage is bounded by how unlike the future the heavy ones are (Barber,
    Candes, Ramdas & Tibshirani 2023, "Conformal prediction beyond exchangeability").
    """
    weight = np.ones(len(actual)) if weight is None else weight
    n_bands = int(np.clip(len(actual) // 50, 1, n_bands))
    edges = np.unique(np.quantile(expected, np.arange(1, n_bands) / n_bands))
    band = np.searchsorted(edges, expected, side="right")
    tail = (1 - share) / 2
    low, high = np.zeros(len(edges) + 1), np.zeros(len(edges) + 1)
    for number in range(len(edges) + 1):
        own = band == number
        if not own.any():
            continue
        ratio, weights = actual[own] / np.maximum(expected[own], 1e-9), weight[own]
        nothing = float(weights[ratio <= 0].sum() / weights.sum())
        below = 0.0 if nothing > tail else tail
        low[number] = 0.0 if nothing > tail else _quantile(ratio, weights, below)
        high[number] = _quantile(ratio, weights, below + share)
    return Bands(edges, low, high)


def _quantile(values: Array, weights: Array, share: float) -> float:
    """Return the weighted quantile that covers a new value, itself one of the heaviest."""
    order = np.argsort(values, kind="stable")
    reached = np.cumsum(weights[order])
    place = np.searchsorted(reached, share * (reached[-1] + weights.max()) - 1e-9)
    return float(values[order][min(int(place), len(values) - 1)])


class CustomerValueModel(BaseEstimator):
    """What serves: purchase probabilities, expectations and intervals of every known customer.

    purchases: MBG/NBD and Gamma-Gamma. recipe: buy_till_you_die, boosting or average.
    boosters: window -> fitted regressor of orders (empty for buy_till_you_die).
    bands: "orders 90", "revenue 90", ... -> Bands.
    propensities: window -> classifier of the design matrix (empty: MBG/NBD itself).
    categories: window -> classifier of P(main category | purchase).
    margin_rate: the shop's, NaN where no cost is known.
    tested_windows: those whose expectations were tested out of time.
    """

    def __init__(
        self,
        purchases: Purchases,
        recipe: str,
        boosters: Mapping[str, Any],
        bands: Mapping[str, Bands],
        propensities: Mapping[str, Any],
        categories: Mapping[str, Any],
        margin_rate: float,
        tested_windows: Sequence[int],
    ) -> None:
        self.purchases = purchases
        self.recipe = recipe
        self.boosters = boosters
        self.bands = bands
        self.propensities = propensities
        self.categories = categories
        self.margin_rate = margin_rate
        self.tested_windows = tested_windows

    def predict(self, status: pd.DataFrame, margin_rate_default: float = 0.4) -> pd.DataFrame:
        """Return one row per customer of one day's `customer_status`, sorted by customer_key.

        Who has never bought has a purchase probability, where the model has one for prospects, and
        no value: null. The probability for the main category is null without a main category.

        Raises:
            FeatureError: status lacks a column, or holds a value that it may not hold.
        """
        rows = status.sort_values("customer_key", kind="stable").reset_index(drop=True)
        matrix = design(rows, self.purchases)
        is_buyer = matrix["days_since_first_order"].notna().to_numpy()
        found = pd.DataFrame({"customer_key": rows["customer_key"]})
        with one_thread():
            self._probabilities(found, rows, matrix, is_buyer)
            self._values(found, rows, matrix, is_buyer, margin_rate_default)
        return found

    def _probabilities(
        self, found: pd.DataFrame, rows: pd.DataFrame, matrix: pd.DataFrame, is_buyer: Mask
    ) -> None:
        has_category = rows["main_category"].notna().to_numpy()
        share = category_matrix(rows[has_category])
        for window in PURCHASE_WINDOWS:
            model = self.propensities.get(str(window))
            if model is None:
                p = sigmoid(matrix[f"purchase_log_odds_{window}d"].to_numpy())
            else:
                p = model.predict_proba(matrix)[:, 1] if len(matrix) else np.empty(0)
            p = np.round(p, 6)
            found[f"purchase_probability_{window}d"] = p
            main = np.full(len(rows), np.nan)
            split = self.categories.get(str(window))
            if split is not None and has_category.any():
                main[has_category] = p[has_category] * split.predict_proba(share)[:, 1]
            found[f"main_category_probability_{window}d"] = np.round(main, 6)
        # Seven days are part of thirty: two models may disagree by a hair.
        short, long = (f"purchase_probability_{window}d" for window in PURCHASE_WINDOWS)
        found[long] = np.maximum(found[long], found[short])
        short, long = (f"main_category_probability_{window}d" for window in PURCHASE_WINDOWS)
        within = np.maximum(found[long], found[short])
        found[long] = np.minimum(within, found["purchase_probability_30d"])

    def _values(
        self,
        found: pd.DataFrame,
        rows: pd.DataFrame,
        matrix: pd.DataFrame,
        is_buyer: Mask,
        margin_rate_default: float,
    ) -> None:
        buyers, inputs = rows[is_buyer], matrix[is_buyer]
        rate, assumed = self._margin_rates(buyers, margin_rate_default)
        spend = inputs["expected_spend"].to_numpy()

        def put(name: str, values: Array, digits: int) -> None:
            column = np.full(len(rows), np.nan)
            column[is_buyer] = np.round(values, digits)
            found[name] = column

        orders = {window: self.expected_orders(inputs, window) for window in VALUE_WINDOWS}
        revenue = {window: expected * spend for window, expected in orders.items()}
        served = {
            measure: nested(expected, {w: self.bands.get(f"{measure} {w}") for w in VALUE_WINDOWS})
            for measure, expected in (("orders", orders), ("revenue", revenue))
        }
        for window in VALUE_WINDOWS:
            for measure, shown in (
                ("orders", (("order_count", 6, 1.0),)),
                ("revenue", (("revenue_amount", 4, 1.0), ("margin_amount", 4, rate))),
            ):
                values, low, high = served[measure][window]
                for column, digits, factor in shown:
                    put(f"expected_{column}_{window}d", values * factor, digits)
                    # a loss turns the ends round
                    ends = low * factor, high * factor
                    put(f"{column}_low_{window}d", np.minimum(*ends), digits)
                    put(f"{column}_high_{window}d", np.maximum(*ends), digits)
        known = np.zeros(len(rows), dtype=bool)
        known[is_buyer] = assumed
        found["is_margin_assumed"] = known

    def expected_orders(self, inputs: pd.DataFrame, window: int) -> Array:
        """Return the expected orders of buyers within a window, from their design matrix."""
        booster = self.boosters.get(str(window))
        own = inputs[f"expected_orders_{window}d"].to_numpy()
        learnt = booster.predict(inputs) if booster is not None and len(own) else own
        return combine(self.recipe, own, learnt)

    def _margin_rates(self, buyers: pd.DataFrame, default: float) -> tuple[Array, Mask]:
        """Return the margin rate of each buyer, and whether it is assumed.

        (margin + k m) / (revenue + k s): k orders of the shop's mean amount s at its margin m weigh
        beside the customer's own year.
        """
        revenue = _floats(buyers["revenue_amount_365d"])
        margin = _floats(buyers["margin_amount_365d"])
        is_known = buyers["is_margin_known"].fillna(False).to_numpy(dtype=bool) & ~np.isnan(margin)
        if np.isnan(self.margin_rate):
            return np.full(len(buyers), default), np.ones(len(buyers), dtype=bool)
        prior = MARGIN_PRIOR_ORDERS * self.purchases.spend.mean / self.purchases.orders_per_day
        own = (np.where(is_known, margin, 0.0) + prior * self.margin_rate) / (revenue + prior)
        return np.where(is_known, own, self.margin_rate), ~is_known


def combine(recipe: str, buy_till_you_die: Array, boosting: Array) -> Array:
    """Return the expected orders of a recipe from those of its two parts."""
    if recipe == "buy_till_you_die":
        return buy_till_you_die
    if recipe == "boosting":
        return boosting
    if recipe == "average":
        return (buy_till_you_die + boosting) / 2
    raise ValueError(f"unknown recipe {recipe!r}")


def design(status: pd.DataFrame, purchases: Purchases) -> pd.DataFrame:
    """Return the design matrix: STATUS_FEATURES and what MBG/NBD and Gamma-Gamma say, as floats.

    Raises:
        FeatureError: a column is missing, infinite, or missing where it may not be.
    """
    matrix = _matrix(status, STATUS_FEATURES)
    has_history = matrix[["days_since_last_order", "days_since_first_order"]].notna().all(axis=1)
    buyers = matrix[has_history]
    columns: dict[str, Array] = {
        "expected_spend": purchases.expected_spend(buyers),
        "alive_probability": purchases.purchases.alive_probability(histories_of(buyers)),
    }
    for window in VALUE_WINDOWS:
        columns[f"expected_orders_{window}d"] = purchases.expected_orders(buyers, window)
    for window in PURCHASE_WINDOWS:
        columns[f"purchase_log_odds_{window}d"] = logit(
            purchases.purchase_probability(buyers, window)
        )
    for name, values in columns.items():
        column = np.full(len(matrix), np.nan)
        column[has_history.to_numpy()] = values
        matrix[name] = column
    return matrix


def category_matrix(status: pd.DataFrame) -> pd.DataFrame:
    """Return what P(main category | purchase) is told from, as floats."""
    return _matrix(status, CATEGORY_FEATURES)


def _matrix(status: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    missing = [name for name in names if name not in status.columns]
    if missing:
        raise FeatureError(f"customer_status lacks {', '.join(missing)}")
    matrix = pd.DataFrame({name: _floats(status[name]) for name in names}, index=status.index)
    problems = [
        f"{name}: {int(bad.sum())} of {len(bad)} values are {what}"
        for name in names
        for what, bad in (
            ("not finite", np.isinf(matrix[name])),
            ("missing", matrix[name].isna() & (name not in NULLABLE)),
        )
        if bad.any()
    ]
    if problems:
        raise FeatureError("customer_status: " + "; ".join(problems))
    return matrix


def _amounts(buyers: pd.DataFrame) -> Array:
    return np.maximum(_floats(buyers["revenue_amount_lifetime"]), 0.0)


def _floats(column: pd.Series) -> Array:
    """Return numbers, booleans or Decimals as float64, NaN for missing."""
    if column.dtype == object:
        return np.array([np.nan if pd.isna(v) else float(v) for v in column], dtype="float64")
    return np.asarray(column.astype("float64").to_numpy(na_value=np.nan), dtype="float64")
