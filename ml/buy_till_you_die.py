"""How often a customer will buy, and for how much, from when they bought: the probability models.

Belongs here: BG/NBD, MBG/NBD and Gamma-Gamma (likelihoods, fits, expectations), the summary of a
purchase history that they need, and the classifier that makes a churn candidate of them. Does not
belong here: models that know more of a customer than the dates and amounts (ml.value,
ml.candidates).

While alive a customer buys at a rate of their own, gamma(r, alpha) over the shop; after each
purchase the customer drops out with a chance of their own, beta(a, b). In BG/NBD (Fader, Hardie &
Lee, Marketing Science 24(2), 2005) nobody drops out after the first purchase, so every one-time
buyer is alive for ever; in MBG/NBD (Batislam, Denizel & Filiztekin, Int. J. of Research in
Marketing 24(3), 2007) the first purchase counts like the others. The two differ in the number of
times that a customer could have dropped out and did not: x after x repeat purchases, or x + 1. So
they are one piece of code here.

A purchase is a day with a valid order, however many orders the day holds: two orders of one day are
one visit, and a gap of zero days is outside both models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple, Self

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import minimize
from scipy.special import betaincinv, digamma, expit, gammaln, hyp2f1, roots_legendre
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data

Array = npt.NDArray[np.float64]
Variant = Literal["bg", "mbg"]

#: The published columns that hold a purchase history (`customer_features`, `customer_status`).
HISTORY_COLUMNS = ("days_since_first_order", "days_since_last_order", "gap_mean_days")

# Parameters are sought within e^-10 .. e^10 of the scale of the data: where a shop shows no dropout
# at all, b runs away, and the likelihood is flat long before that.
_BOUND = 10.0


class FitError(ValueError):
    """The histories do not determine the parameters; the message says what is missing."""


class Histories(NamedTuple):
    """What the models need of each customer, in one unit of time, one entry a customer.

    frequency: purchases after the first (x); recency: time from the first purchase to the last
    (t_x, 0 without a repeat); tenure: time from the first purchase to the day of the summary (T).
    """

    frequency: Array
    recency: Array
    tenure: Array


def histories_of(frame: pd.DataFrame) -> Histories:
    """Return the histories in `HISTORY_COLUMNS` of a published frame, in days.

    The number of gaps follows from their mean: gaps add up to the time between the first and the
    last purchase. No gap (null) is no repeat purchase. It is days with orders, not orders, that are
    counted: `order_count_lifetime` would count two orders of one day as two purchases.

    Raises:
        ValueError: a customer without a purchase, or one whose last is before the first.
    """
    return _from_columns(frame[list(HISTORY_COLUMNS)].to_numpy("float64", na_value=np.nan))


def _from_columns(values: Array) -> Histories:
    tenure, silence, gap = values.T
    if np.isnan(tenure).any() or np.isnan(silence).any():
        raise ValueError("days_since_first_order and days_since_last_order must be known")
    if (silence < 0).any() or (tenure < silence).any():
        raise ValueError("the last order must lie between the first one and the day of the summary")
    recency = tenure - silence
    repeated = gap > 0  # False where null
    frequency = np.where(repeated, np.round(recency / np.where(repeated, gap, 1.0)), 0.0)
    return Histories(frequency, np.where(frequency > 0, recency, 0.0), tenure)


def purchase_histories(orders: pd.DataFrame, end: object, unit_days: float = 1.0) -> pd.DataFrame:
    """Return one row per customer with an order by the end of day `end`, sorted by customer_key.

    orders: one row per valid order with `customer_key`, `ordered_date` and `revenue_amount`.
    Columns: customer_key, frequency, recency, tenure (in units of `unit_days`), mean_spend (mean
    revenue of the days with repeat purchases, which is what Gamma-Gamma was published on; 0 without
    one), revenue_amount, order_count.
    """
    days = pd.to_datetime(orders["ordered_date"]).dt.normalize()
    known = orders.assign(day=days)[days <= pd.Timestamp(str(end))]
    daily = known.groupby(["customer_key", "day"], sort=True)["revenue_amount"].agg(["sum", "size"])
    daily = daily.reset_index()
    daily["is_repeat"] = daily["customer_key"].duplicated()
    daily["repeat_amount"] = daily["sum"].where(daily["is_repeat"], 0.0)
    found = daily.groupby("customer_key", sort=True).agg(
        first=("day", "min"),
        last=("day", "max"),
        frequency=("is_repeat", "sum"),
        repeat_amount=("repeat_amount", "sum"),
        revenue_amount=("sum", "sum"),
        order_count=("size", "sum"),
    )
    frequency = found["frequency"].astype("float64")
    return pd.DataFrame(
        {
            "customer_key": found.index,
            "frequency": frequency.to_numpy(),
            "recency": ((found["last"] - found["first"]).dt.days / unit_days).to_numpy(),
            "tenure": ((pd.Timestamp(str(end)) - found["first"]).dt.days / unit_days).to_numpy(),
            "mean_spend": (found["repeat_amount"] / frequency.clip(lower=1)).to_numpy(),
            "revenue_amount": found["revenue_amount"].to_numpy(),
            "order_count": found["order_count"].to_numpy(),
        }
    )


@dataclass(frozen=True)
class PurchasePopulation:
    """The four parameters of BG/NBD or MBG/NBD, and what follows from them for a customer.

    alpha has the unit of time of the histories that it was fitted on.
    """

    variant: str
    r: float
    alpha: float
    a: float
    b: float
    log_likelihood: float = float("nan")

    def alive_probability(self, histories: Histories) -> Array:
        """Return P(not dropped out by the day of the summary | history)."""
        x, recency, tenure = histories
        survived = _survived(self.variant, x)
        log_odds = np.log(self.a / np.where(survived > 0, self.b + survived - 1, 1.0)) + (
            self.r + x
        ) * (np.log(self.alpha + tenure) - np.log(self.alpha + recency))
        return np.where(survived > 0, expit(-log_odds), 1.0)

    def no_purchase_probability(self, histories: Histories, time: float) -> Array:
        """Return P(no purchase within `time` after the day of the summary | history)."""
        x, _, tenure = histories
        silent = (self.r + x) * -np.log1p(time / (self.alpha + tenure))
        return 1 + self.alive_probability(histories) * np.expm1(silent)

    def expected_purchases(self, histories: Histories, time: float) -> Array:
        """Return the expected number of purchases within `time` after the day of the summary."""
        x, _, tenure = histories
        expected = _purchases_while_alive(
            self.r + x,
            self.alpha + tenure,
            self.a,
            self.b + _survived(self.variant, x),
            time,
        )
        return self.alive_probability(histories) * expected

    def expected_purchases_of_newcomer(self, time: npt.ArrayLike) -> Array:
        """Return E[X(t)]: expected repeat purchases within `time` of a first purchase."""
        survived = _survived(self.variant, np.zeros(1))[0]
        stays = self.b / (self.a + self.b) if survived else 1.0
        found = _purchases_while_alive(self.r, self.alpha, self.a, self.b + survived, time)
        return stays * found


def fit_purchases(histories: Histories, variant: Variant = "mbg") -> PurchasePopulation:
    """Return the parameters of the highest likelihood (L-BFGS-B on logs, analytic gradient).

    Raises:
        FitError: nobody has bought twice, or a history is impossible.
    """
    if variant not in ("bg", "mbg"):
        raise ValueError(f"the variant is 'bg' or 'mbg', not {variant!r}")
    x, recency, tenure = (np.asarray(one, dtype="float64") for one in histories)
    if not (np.isfinite(x) & (x >= 0) & (recency >= 0) & (recency <= tenure)).all():
        raise FitError("histories need frequency >= 0 and 0 <= recency <= tenure")
    if not (x > 0).any():
        raise FitError(
            f"none of {len(x)} customers has bought on two days: the shop has shown no rate yet"
        )
    # Many histories are alike, above all those of one-time buyers: each is worked out once.
    distinct, weights = np.unique(np.column_stack([x, recency, tenure]), axis=0, return_counts=True)
    scale = float(tenure.mean()) or 1.0
    x, recency, tenure = distinct[:, 0], distinct[:, 1] / scale, distinct[:, 2] / scale
    survived = _survived(variant, x)
    may_have_dropped = survived > 0
    safe = np.where(may_have_dropped, survived, 1.0)

    def negative(r: float, alpha: float, a: float, b: float) -> tuple[float, Array]:
        log_t, log_tx = np.log(alpha + tenure), np.log(alpha + recency)
        alive = -(r + x) * log_t
        dropped = np.where(
            may_have_dropped, np.log(a) - np.log(b + safe - 1) - (r + x) * log_tx, -np.inf
        )
        total = np.logaddexp(alive, dropped)
        share = np.exp(dropped - total)  # of the likelihood that belongs to a dropout
        value = (
            gammaln(r + x)
            - gammaln(r)
            + r * np.log(alpha)
            + gammaln(a + b)
            + gammaln(b + survived)
            - gammaln(b)
            - gammaln(a + b + survived)
            + total
        )
        common = digamma(a + b) - digamma(a + b + survived)
        gradient = (
            digamma(r + x) - digamma(r) + np.log(alpha) - (1 - share) * log_t - share * log_tx,
            r / alpha - (r + x) * ((1 - share) / (alpha + tenure) + share / (alpha + recency)),
            common + share / a,
            common + digamma(b + survived) - digamma(b) - share / (b + safe - 1),
        )
        return -float(weights @ value), -np.array([weights @ each for each in gradient])

    (r, alpha, a, b), value = _minimise(negative, 4, weights.sum())
    # the density of a scaled time is the scale times that of the time, once a purchase
    likelihood = -value - float((weights * x).sum()) * float(np.log(scale))
    return PurchasePopulation(variant, r, alpha * scale, a, b, likelihood)


@dataclass(frozen=True)
class SpendPopulation:
    """Gamma-Gamma (Fader & Hardie, "The Gamma-Gamma Model of Monetary Value", 2013).

    An amount is gamma(p, nu), nu of the customer is gamma(q, v) over the shop; q > 1, so that the
    mean exists. Amounts are taken to be independent of how often a customer buys.
    """

    p: float
    q: float
    v: float

    @property
    def mean(self) -> float:
        """Return the mean amount over the shop, p v / (q - 1)."""
        return self.p * self.v / (self.q - 1)

    def expected_spend(self, count: npt.ArrayLike, mean_spend: npt.ArrayLike) -> Array:
        """Return the expected amount of a purchase given the mean of `count` amounts.

        (p / (p x + q - 1)) (v + x z): the shop's mean for a count of 0, nearer to the customer's
        own the more amounts are known.
        """
        count, mean_spend = np.asarray(count, "float64"), np.asarray(mean_spend, "float64")
        own = np.where(count > 0, count * mean_spend, 0.0)
        return self.p * (self.v + own) / (self.p * count + self.q - 1)


def fit_spend(count: npt.ArrayLike, mean_spend: npt.ArrayLike) -> SpendPopulation:
    """Return the parameters of the highest likelihood, of customers with `count` > 0 amounts.

    Customers whose mean amount is not above zero say nothing about the size of an amount and are
    left out.

    Raises:
        FitError: fewer than two customers have an amount, or nobody has two.
    """
    count, mean_spend = np.asarray(count, "float64"), np.asarray(mean_spend, "float64")
    used = (count > 0) & (mean_spend > 0)
    x, spend = count[used], mean_spend[used]
    if len(x) < 2 or x.max() < 2:
        raise FitError(
            f"{len(x)} customers with an amount, none of them with two, say nothing of how amounts "
            "vary within a customer"
            if len(x) >= 2
            else f"{len(x)} customers have an amount, at least two are needed"
        )
    scale = float(spend.mean())
    spend = spend / scale

    def negative(p: float, excess: float, v: float) -> tuple[float, Array]:
        q = 1 + excess
        total = v + x * spend
        value = (
            gammaln(p * x + q)
            - gammaln(p * x)
            - gammaln(q)
            + q * np.log(v)
            + (p * x - 1) * np.log(spend)
            + p * x * np.log(x)
            - (p * x + q) * np.log(total)
        )
        gradient = (
            x * (digamma(p * x + q) - digamma(p * x) + np.log(spend) + np.log(x) - np.log(total)),
            digamma(p * x + q) - digamma(q) + np.log(v) - np.log(total),
            q / v - (p * x + q) / total,
        )
        return -float(value.sum()), -np.array([each.sum() for each in gradient])

    (p, excess, v), _ = _minimise(negative, 3, len(x))
    return SpendPopulation(p, 1 + excess, v * scale)


def rank_correlation(first: npt.ArrayLike, second: npt.ArrayLike) -> tuple[float, float, float]:
    """Return Spearman's correlation and its 95 % interval; NaN where there is none.

    Fisher's z with the standard error sqrt((1 + r^2 / 2) / (n - 3)) of Bonett & Wright
    (Psychometrika 65, 2000). Gamma-Gamma takes frequency and mean amount to be independent; an
    interval beyond zero says that it is not so at this shop.
    """
    from scipy.stats import rankdata

    first, second = rankdata(np.asarray(first)), rankdata(np.asarray(second))
    if len(first) < 4 or first.std() == 0 or second.std() == 0:
        return float("nan"), float("nan"), float("nan")
    r = float(np.clip(np.corrcoef(first, second)[0, 1], -1 + 1e-12, 1 - 1e-12))
    half = 1.959964 * np.sqrt((1 + r * r / 2) / (len(first) - 3))
    return r, float(np.tanh(np.arctanh(r) - half)), float(np.tanh(np.arctanh(r) + half))


class BuyTillYouDieClassifier(ClassifierMixin, BaseEstimator):
    """P(no purchase within the horizon) from the three columns of a purchase history.

    X holds `HISTORY_COLUMNS` in their order, in days; the third is NaN without a second purchase.
    Of two classes the greater one (1) says that no purchase followed.

    The four parameters are those under which the labels are likeliest given the histories, not
    those under which the histories are: the population of churn bought in the last half year, so
    whoever dropped out before it is not in X, and the likelihood of the histories takes dropping
    out to be rare. On Online Retail II (seven test days of 2011, docs/benchmarks-value.md) it had a
    Brier score of .204, .198 with a logistic recalibration on the labels, against .194 this way,
    which is what a fit on all past buyers has. Given its history, a customer's future does not
    depend on why the customer is in X. Where the labels say little the parameters stay near r = 1,
    alpha = the mean gap, a = 1/2 and b = 2, which weigh as one label.
    """

    def __init__(self, horizon_days: float = 90.0, variant: Variant = "mbg") -> None:
        self.horizon_days = horizon_days
        self.variant = variant

    def fit(self, X: npt.NDArray, y: npt.NDArray) -> Self:
        """Fit on one row per customer and snapshot: X (rows, 3), y (rows,) of two classes.

        Raises:
            ValueError: X has other than three columns, is no history, or y has not two classes.
        """
        if self.horizon_days <= 0:
            raise ValueError(f"horizon_days must be positive, got {self.horizon_days}")
        X, y = validate_data(self, X, y, dtype="float64", ensure_all_finite="allow-nan")
        check_classification_targets(y)
        self.classes_, label = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:
            raise ValueError(
                "Only binary classification is supported. A purchase followed or none did; y has "
                f"{len(self.classes_)} class"
            )
        if (X < 0).any():
            raise ValueError("Negative values in data passed to BuyTillYouDieClassifier: X is days")
        histories = self._histories(X)
        repeats = float(histories.frequency.sum())
        # nobody has bought twice: the gap is longer than anybody has been a customer
        gap = float(histories.recency.sum()) / repeats if repeats else float(histories.tenure.max())
        start = PurchasePopulation(self.variant, 1.0, gap or 1.0, 0.5, 2.0)
        fitted = _fit_by_label(histories, label.astype("float64"), float(self.horizon_days), start)
        self.r_, self.alpha_, self.a_, self.b_ = fitted.r, fitted.alpha, fitted.a, fitted.b
        return self

    @property
    def population_(self) -> PurchasePopulation:
        """The fitted parameters as a model of purchases."""
        check_is_fitted(self)
        return PurchasePopulation(self.variant, self.r_, self.alpha_, self.a_, self.b_)

    def predict_proba(self, X: npt.NDArray) -> Array:
        """Return an array of shape (rows, 2): P(a purchase), P(no purchase)."""
        check_is_fitted(self)
        X = validate_data(self, X, dtype="float64", ensure_all_finite="allow-nan", reset=False)
        # What nobody has lived can be asked, too: reasons replace some columns by the typical ones.
        X = X.copy()
        X[:, 1] = np.minimum(X[:, 1], X[:, 0])
        none = self.population_.no_purchase_probability(self._histories(X), self.horizon_days)
        return np.column_stack([1.0 - none, none])

    def predict(self, X: npt.NDArray) -> npt.NDArray:
        """Return the greater class where P(no purchase) >= 0.5."""
        none = self.predict_proba(X)[:, 1]
        return self.classes_[(none >= 0.5).astype(int)]

    def _histories(self, X: Array) -> Histories:
        if X.shape[1] != len(HISTORY_COLUMNS):
            raise ValueError(f"X has {X.shape[1]} columns, not {', '.join(HISTORY_COLUMNS)}")
        return _from_columns(X)

    def __sklearn_tags__(self) -> Tags:
        """Tell scikit-learn that X may hold NaN and that there are two classes."""
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.allow_nan = True
        tags.input_tags.positive_only = True
        return tags


def _fit_by_label(
    histories: Histories, label: Array, time: float, start: PurchasePopulation
) -> PurchasePopulation:
    """Return the parameters under which `label` (1: no purchase within `time`) is likeliest."""
    scale = float(histories.tenure.mean()) or 1.0
    x, recency, tenure = histories.frequency, histories.recency / scale, histories.tenure / scale
    time = time / scale
    survived = _survived(start.variant, x)
    may_have_dropped = survived > 0
    first = np.clip(
        np.log([start.r, start.alpha / scale, start.a, start.b]), 1 - _BOUND, _BOUND - 1
    )

    def on_logs(logs: Array) -> tuple[float, Array]:
        r, alpha, a, b = np.exp(logs)
        times = r + x
        end, last, later = alpha + tenure, alpha + recency, alpha + tenure + time
        room = np.where(may_have_dropped, b + survived - 1, 1.0)
        log_odds = np.log(a / room) + times * np.log(end / last)
        alive = np.where(may_have_dropped, expit(-log_odds), 1.0)
        silent = np.exp(times * np.log(end / later))
        none = np.clip(1 - alive * (1 - silent), 1e-9, 1 - 1e-9)
        loss = -(label * np.log(none) + (1 - label) * np.log1p(-none))
        slope = (none - label) / (none * (1 - none))
        by_odds = slope * np.where(may_have_dropped, alive * (1 - alive), 0.0) * (1 - silent)
        by_silence = slope * alive * silent
        gradient = np.array(
            [
                by_odds @ np.log(end / last) + by_silence @ np.log(end / later),
                by_odds @ (times * (1 / end - 1 / last))
                + by_silence @ (times * (1 / end - 1 / later)),
                by_odds.sum() / a,
                -(by_odds / room).sum(),
            ]
        )
        away = logs - first
        value = (loss.sum() + away @ away / 2) / len(x)
        return float(value), (gradient * np.exp(logs) + away) / len(x)

    found = minimize(
        on_logs,
        first,
        jac=True,
        method="L-BFGS-B",
        bounds=[(-_BOUND, _BOUND)] * 4,
        options={"maxiter": 500, "ftol": 1e-12, "gtol": 1e-7},
    )
    r, alpha, a, b = (float(value) for value in np.exp(found.x))
    return PurchasePopulation(start.variant, r, alpha * scale, a, b)


def _survived(variant: str, frequency: Array) -> Array:
    """Return how often each customer could have dropped out and did not."""
    return frequency + 1 if variant == "mbg" else frequency


def _purchases_while_alive(
    r: npt.ArrayLike, alpha: npt.ArrayLike, a: float, b: npt.ArrayLike, time: npt.ArrayLike
) -> Array:
    """Return the expected purchases within `time` of who is alive, rate gamma(r, alpha), a, b.

    (a + b - 1) / (a - 1) * (1 - (alpha / (alpha + t))^r 2F1(r, b; a + b - 1; z)), with
    z = t / (alpha + t). Euler's transformation makes the second factor
    1 - (1 - z)^(a - 1) 2F1(a - 1, a + b - 1 - r; a + b - 1; z), whose parts stay small for
    customers with hundreds of purchases.
    """
    # At a = 1 the singularity is removable; and SciPy's hyp2f1 is infinite where r - a is a whole
    # number and b large (of r = 1 + 99, a = 2, b = 1 + 99, for one).
    a = 1 + 1e-5 if abs(a - 1) < 1e-5 else a * (1 + 1e-9)
    r, alpha, b, time = np.broadcast_arrays(
        *(np.asarray(one, dtype="float64") for one in (r, alpha, b, time))
    )
    z = time / (alpha + time)
    c = a + b - 1
    with np.errstate(over="ignore", invalid="ignore"):
        series = np.exp((a - 1) * np.log1p(-z)) * hyp2f1(a - 1, c - r, c, z)
        expected = np.asarray(c / (a - 1) * (1 - series))
    lost = ~np.isfinite(expected) | (a > 50)
    if lost.any():
        # With a in the hundreds the factors over- and underflow, or lose digits; and hyp2f1 is
        # infinite near z = 1 for some whole r - a, perturbed or not. It is the mean over beta(a, b)
        # of (1 - (1 + p t / alpha)^-r) / p.
        quantiles, weights = _unit_interval()
        p = betaincinv(a, b[lost][:, None], quantiles)
        rate = -np.expm1(-r[lost][:, None] * np.log1p(p * (time / alpha)[lost][:, None])) / p
        expected[lost] = rate @ weights
    return expected


@cache
def _unit_interval() -> tuple[Array, Array]:
    """Return nodes and weights of an integral over (0, 1) whose integrand is steep at both ends.

    Gauss-Legendre in s, with u = s^2 (3 - 2 s) twice over, which crowds the ends: of quantiles of a
    beta 64 nodes are right to 1e-11, where the midpoints of 128 parts were to 2e-3.
    """
    s, weights = roots_legendre(64)
    s, weights = (s + 1) / 2, weights / 2
    for _ in range(2):
        s, weights = s * s * (3 - 2 * s), weights * 6 * s * (1 - s)
    return s, weights


def _minimise(
    negative: Callable[..., tuple[float, Array]], size: int, rows: float
) -> tuple[tuple[float, ...], float]:
    """Return the positive parameters at the minimum of a sum over rows, and the minimum."""

    def on_logs(logs: Array) -> tuple[float, Array]:
        values = np.exp(logs)
        value, gradient = negative(*values)
        return value / rows, gradient * values / rows

    found = minimize(
        on_logs,
        np.zeros(size),
        jac=True,
        method="L-BFGS-B",
        bounds=[(-_BOUND, _BOUND)] * size,
        options={"maxiter": 1000, "ftol": 1e-13, "gtol": 1e-8},
    )
    return tuple(float(value) for value in np.exp(found.x)), float(found.fun) * float(rows)
