"""Why a customer is at risk, in words that a marketer can check against the customer's record.

Belongs here: the groups of features, what each contributes to one customer's risk, the phrases.
Does not belong here: the score itself (ml.scoring).

A group's contribution is how much the log-odds of churning fall when its features are replaced by
the reference customer's (the medians of the reference frame): ablation by group, the one-step form
of the occlusion of Zeiler & Fergus (2014). Groups rather than features, because correlated features
share their effect and no shop owner asks about a standard deviation. What it costs depends on the
model (ml.ablation). Phrases state the customer's own values and no cause; but of protected
attributes only that they counted, since campaigns choose customers by their reasons.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

import numpy as np
import pandas as pd

from ml.ablation import ablated
from ml.estimators import logit
from ml.features import INPUTS, feature_matrix
from ml.scoring import MEDIUM_RISK
from ml.threads import one_thread

REASON_COUNT = 3
NO_REASON = "no sign of leaving"
NO_FURTHER_REASON = "no further sign of leaving"
PERSONAL = "personal attributes raise the risk"
PASSED_OVER = "neither among the riskiest nor with most at stake"
TOLD_DECILES = 1
# Log-odds below which a contribution is not worth a word: 0.02 moves a probability by 0.5 points.
_SMALLEST = 0.02

# A copy per group of so many customers is 10 MB; with fewer the calls cost more than the work.
_CUSTOMERS_AT_ONCE = 1_000

Row = Mapping[str, float]


@dataclass(frozen=True)
class Group:
    """Features that tell one story, and how to tell it: phrase(the customer, the reference)."""

    name: str
    features: tuple[str, ...]
    phrase: Callable[[Row, Row], str]


def is_passed_over(scores: pd.DataFrame, most_at_stake: int) -> pd.Series:
    """Return of whom no reasons are worked out though they are at risk; indexed like `scores`.

    scores: risk_band, churn_decile, margin_at_risk_amount, customer_key. Not passed over are the
    riskiest tenth of all, and so many customers as have most margin at risk: whom somebody may talk
    to. A reason costs as many predictions as there are groups: a boosted hazard takes 0.4 ms a
    customer, and all at risk would be three quarters of the shop.
    """
    at_risk = scores["risk_band"].ne("low")
    at_stake = scores["margin_at_risk_amount"].astype("float64").where(at_risk, -1.0)
    by_stake = scores.assign(at_stake=at_stake).sort_values(
        ["at_stake", "customer_key"], ascending=[False, True], kind="stable"
    )
    is_most = scores.index.isin(by_stake.index[:most_at_stake])
    return at_risk & scores["churn_decile"].gt(TOLD_DECILES) & ~is_most


def reasons(
    estimator: Any,
    features: pd.DataFrame,
    reference: pd.DataFrame,
    passed_over: pd.Series | None = None,
    probability: pd.Series | None = None,
    inputs: Sequence[str] = INPUTS,
) -> pd.DataFrame:
    """Return customer_key, reason_1, reason_2, reason_3, sorted by customer_key; never null.

    features: `customer_key` and the features of one snapshot. reference: rows whose medians stand
    for the typical customer, e.g. the same snapshot. Reasons are the groups that raise this
    customer's risk most, strongest first; where fewer than three do, the rest reads
    `NO_FURTHER_REASON`. Customers at low risk (ml.scoring) have `NO_REASON`, and who is passed over
    (customer_key -> bool, default: nobody) has `PASSED_OVER`. probability: customer_key -> P(churn)
    by this estimator, where it is known; else it is predicted. inputs: what the model was given.
    """
    rows = features.sort_values("customer_key", kind="stable").reset_index(drop=True)
    matrix = feature_matrix(rows, inputs)
    medians = _medians(matrix if reference is features else reference, inputs)
    groups = groups_of(inputs)
    keys = rows["customer_key"]
    if passed_over is None:
        is_passed_over = np.zeros(len(rows), dtype=bool)
    else:
        is_passed_over = keys.map(passed_over).to_numpy(dtype=bool)
    if probability is None:
        p = _predict(estimator, matrix)
    else:
        p = keys.map(probability).to_numpy(dtype="float64")
    asked = np.flatnonzero((p >= MEDIUM_RISK) & ~is_passed_over)
    records = matrix.to_numpy()[asked]
    values = _contributions(estimator, records, medians, inputs)
    order = np.argsort(-values, axis=1, kind="stable")[:, :REASON_COUNT]
    typical = dict(zip(inputs, medians, strict=True))
    words = []
    for k in range(REASON_COUNT):
        column = np.full(len(rows), NO_FURTHER_REASON if k else NO_REASON, dtype=object)
        column[is_passed_over] = PASSED_OVER
        words.append(column)
    for i in np.flatnonzero((values >= _SMALLEST).any(axis=1)):
        customer = dict(zip(inputs, records[i].tolist(), strict=True))
        for k in range(REASON_COUNT):
            group = order[i, k]
            if values[i, group] >= _SMALLEST:
                words[k][asked[i]] = groups[group].phrase(customer, typical)
    return pd.DataFrame(
        {
            "customer_key": keys,
            **{f"reason_{k + 1}": pd.Series(words[k], dtype="str") for k in range(REASON_COUNT)},
        }
    )


def contributions(estimator: Any, features: pd.DataFrame, reference: pd.DataFrame) -> pd.DataFrame:
    """Return customer_key and, per group, the rise in log-odds due to it, rounded to 6 digits.

    Zero for customers at low risk.
    """
    rows = features.sort_values("customer_key", kind="stable").reset_index(drop=True)
    matrix = feature_matrix(rows, INPUTS)
    asked = _predict(estimator, matrix) >= MEDIUM_RISK
    effects = np.zeros((len(rows), len(GROUPS)))
    medians = _medians(reference, INPUTS)
    effects[asked] = _contributions(estimator, matrix.to_numpy()[asked], medians, INPUTS)
    columns = {group.name: effects[:, i] for i, group in enumerate(GROUPS)}
    return pd.DataFrame({"customer_key": rows["customer_key"], **columns})


def groups_of(inputs: Sequence[str]) -> tuple[Group, ...]:
    """Return the groups that together hold every input once."""
    person = tuple(name for name in inputs if name not in INPUTS)
    return (*GROUPS, Group("person", person, _person)) if person else GROUPS


def columns_of(inputs: Sequence[str]) -> list[list[int]]:
    """Return the places of each group's features among the inputs."""
    place = {name: i for i, name in enumerate(inputs)}
    return [[place[name] for name in group.features] for group in groups_of(inputs)]


def _contributions(
    estimator: Any, records: np.ndarray, medians: np.ndarray, inputs: Sequence[str]
) -> np.ndarray:
    """Return an array of shape (rows, groups), rounded to 6 digits."""
    columns = columns_of(inputs)
    effects = np.zeros((len(records), len(columns)))
    with one_thread():
        for start in range(0, len(records), _CUSTOMERS_AT_ONCE):
            part = slice(start, start + _CUSTOMERS_AT_ONCE)
            told = pd.DataFrame(records[part], columns=list(inputs))
            odds = logit(ablated(estimator, told, columns, medians))
            effects[part] = (odds[-1] - odds[:-1]).T
    return np.round(effects, 6)


def _predict(estimator: Any, matrix: pd.DataFrame) -> np.ndarray:
    with one_thread():
        return estimator.predict_proba(matrix)[:, 1] if len(matrix) else np.empty(0)


def _medians(reference: pd.DataFrame, inputs: Sequence[str]) -> np.ndarray:
    """Return the median of each feature; NaN where the reference never has a value."""
    return feature_matrix(reference, inputs).median(axis=0, skipna=True).to_numpy()


def _count(n: float, noun: str, plural: str | None = None) -> str:
    whole = round(n)
    return f"{whole} {noun if whole == 1 else plural or noun + 's'}"


def _times(n: float) -> str:
    return {1: "once", 2: "twice"}.get(round(n), f"{round(n)} times")


def _money(amount: float) -> str:
    return f"{amount:,.0f}"


def _silence(c: Row, typical: Row) -> str:
    said = f"has not ordered for {_count(c['days_since_last_order'], 'day')}"
    usual = c["gap_median_days"]
    if c["days_since_last_order"] < 1:
        said = "ordered today"
    return said if isnan(usual) else f"{said}, usually orders every {max(round(usual), 1)}"


def _frequency(c: Row, typical: Row) -> str:
    return (
        f"ordered {_times(c['order_count_365d'])} in the last year, "
        f"the typical customer {_times(typical['order_count_365d'])}"
    )


def _spend(c: Row, typical: Row) -> str:
    return (
        f"spent {_money(c['revenue_amount_365d'])} in the last year, "
        f"the typical customer {_money(typical['revenue_amount_365d'])}"
    )


def _rhythm(c: Row, typical: Row) -> str:
    if isnan(c["gap_mean_days"]):
        return "has no second order yet"
    return f"leaves {_count(c['gap_mean_days'], 'day')} between orders on average"


def _tenure(c: Row, typical: Row) -> str:
    days = _count(c["days_since_first_order"], "day")
    if c["is_tenure_censored"]:
        return f"has been a customer for at least {days}"
    return f"placed the first order {days} ago"


def _returns(c: Row, typical: Row) -> str:
    told = []
    if c["return_count_365d"] > 0:
        told.append(_count(c["return_count_365d"], "return"))
    if c["cancelled_order_count_365d"] > 0:
        told.append(_count(c["cancelled_order_count_365d"], "cancelled order"))
    return f"{' and '.join(told) or 'no return or cancellation'} in the last year"


def _discounts(c: Row, typical: Row) -> str:
    if c["open_coupon_count"] > 0:
        return f"has not used {_count(c['open_coupon_count'], 'open coupon')}"
    share = c["discounted_order_rate_365d"]
    if isnan(share) or share <= 0:
        return "bought nothing at a discount in the last year"
    return f"bought at a discount in {share:.0%} of the orders of the last year"


def _breadth(c: Row, typical: Row) -> str:
    return (
        f"bought {_count(c['product_count_365d'], 'different product')} in the last year, "
        f"the typical customer {round(typical['product_count_365d'])}"
    )


def _season(c: Row, typical: Row) -> str:
    orders = c["order_count_same_weeks_last_year"]
    if not c["has_last_year"] or isnan(orders):
        return "was not yet a customer in these weeks a year ago"
    if orders < 1:
        return "did not order in these weeks a year ago"
    return f"ordered {_times(orders)} in these weeks a year ago"


def _delivery(c: Row, typical: Row) -> str:
    if c["undelivered_order_count"] > 0:
        return f"{_count(c['undelivered_order_count'], 'order')} not delivered after two weeks"
    if c["late_delivery_count_180d"] > 0:
        late = _count(c["late_delivery_count_180d"], "late delivery", "late deliveries")
        return f"{late} in the last six months"
    if isnan(c["delivery_days_mean_180d"]):
        return "no delivery in the last six months"
    return f"deliveries took {_count(c['delivery_days_mean_180d'], 'day')} on average"


def _activity(c: Row, typical: Row) -> str:
    if isnan(c["days_since_last_event"]):
        return "has not been seen in the shop"
    last = c["days_since_last_event"]
    seen = "today" if last < 1 else f"{_count(last, 'day')} ago"
    days = _count(c["event_day_count_30d"], "day")
    return f"was last seen in the shop {seen}, on {days} of the last 30"


def _service(c: Row, typical: Row) -> str:
    if c["open_ticket_count"] > 0:
        return f"waits for an answer to {_count(c['open_ticket_count'], 'service ticket')}"
    if c["ticket_count_365d"] > 0:
        return f"{_count(c['ticket_count_365d'], 'service ticket')} in the last year"
    return "no service ticket in the last year"


def _reviews(c: Row, typical: Row) -> str:
    if not isnan(c["last_rating"]):
        return f"gave {_count(c['last_rating'], 'star')} in the last review"
    return "has not written a review"


def _email(c: Row, typical: Row) -> str:
    share = c["email_open_rate_90d"]
    if isnan(share):
        return "received no e-mail in the last 90 days"
    if share <= 0:
        return "opened no e-mail in the last 90 days"
    return f"opened {share:.0%} of the e-mails of the last 90 days"


def _contact(c: Row, typical: Row) -> str:
    if c["contact_count_90d"] < 1:
        return "was not contacted in the last 90 days"
    return f"was contacted {_times(c['contact_count_90d'])} in the last 90 days"


def _person(c: Row, typical: Row) -> str:
    """Tell no value, and nothing that one could be told by: an audience may ask for a reason."""
    return PERSONAL


# The order breaks ties. Together the groups hold every feature exactly once (tested).
GROUPS: tuple[Group, ...] = (
    Group(
        "silence",
        (
            "days_since_last_order",
            "silence_ratio",
            "silence_p90_ratio",
            "alive_probability",
            "purchase_probability_30d",
            "order_count_30d",
            "order_count_90d",
            "order_count_change_90d",
            "revenue_amount_30d",
            "revenue_amount_90d",
            "revenue_amount_change_90d",
        ),
        _silence,
    ),
    Group(
        "service",
        (
            "ticket_count_90d",
            "ticket_count_365d",
            "open_ticket_count",
            "days_since_last_ticket",
            "csat_mean_365d",
        ),
        _service,
    ),
    Group(
        "delivery",
        ("late_delivery_count_180d", "delivery_days_mean_180d", "undelivered_order_count"),
        _delivery,
    ),
    Group(
        "reviews",
        (
            "review_count_365d",
            "rating_mean_365d",
            "last_rating",
            "rating_change",
            "low_rating_count_180d",
            "days_since_last_review",
        ),
        _reviews,
    ),
    Group(
        "activity",
        (
            "event_count_7d",
            "event_count_30d",
            "event_count_90d",
            "event_day_count_30d",
            "event_day_count_90d",
            "view_count_30d",
            "cart_count_30d",
            "session_count_30d",
            "days_since_last_event",
            "days_since_last_cart",
            "event_count_change_30d",
            "event_decay_ratio_30d",
        ),
        _activity,
    ),
    Group(
        "frequency",
        ("order_count_180d", "order_count_365d", "order_count_lifetime", "order_day_count_365d"),
        _frequency,
    ),
    Group(
        "spend",
        (
            "revenue_amount_180d",
            "revenue_amount_365d",
            "margin_amount_365d",
            "average_order_amount_365d",
            "average_order_amount_change_90d",
            "max_order_amount_365d",
            "average_unit_price_amount_365d",
        ),
        _spend,
    ),
    Group(
        "rhythm", ("gap_mean_days", "gap_median_days", "gap_stddev_days", "gap_p90_days"), _rhythm
    ),
    Group(
        "tenure",
        ("days_since_first_order", "is_tenure_censored", "days_since_created"),
        _tenure,
    ),
    Group(
        "returns",
        (
            "return_count_365d",
            "return_amount_365d",
            "return_rate_365d",
            "days_since_last_return",
            "cancelled_order_count_365d",
            "cancelled_amount_365d",
        ),
        _returns,
    ),
    Group(
        "discounts",
        (
            "discount_amount_365d",
            "discount_rate_365d",
            "discounted_order_rate_365d",
            "coupon_redeemed_count_365d",
            "open_coupon_count",
        ),
        _discounts,
    ),
    Group(
        "breadth",
        (
            "product_count_365d",
            "category_count_365d",
            "item_count_365d",
            "main_category_share_365d",
            "category_entropy_365d",
        ),
        _breadth,
    ),
    Group(
        "season",
        (
            "order_count_same_weeks_last_year",
            "revenue_amount_same_weeks_last_year",
            "same_weeks_order_share",
            "has_last_year",
        ),
        _season,
    ),
    Group(
        "email",
        (
            "email_open_count_90d",
            "email_click_count_90d",
            "email_open_rate_90d",
            "days_since_last_email_open",
        ),
        _email,
    ),
    Group(
        "contact",
        (
            "contact_count_30d",
            "contact_count_90d",
            "contact_count_365d",
            "contact_response_rate_365d",
            "days_since_last_contact",
        ),
        _contact,
    ),
)
