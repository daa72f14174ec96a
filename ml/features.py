"""The feature contract between the mart and the models: names, order, types, what may be missing.

Belongs here: which columns of `customer_features` a model may see, and the one function that turns
a published frame into a float matrix. Does not belong here: how a feature is computed (dbt_project)
or how a model prepares it (ml.candidates: imputation and scaling live inside each pipeline).

The context columns (`CONTEXT`) are no features. Among them are the protected attributes (gender,
birth year, country), by which scores are compared (ml.slices); a shop that has asked its lawyers
may switch them on (`protected_features`).
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import pandas as pd

CONTEXT: tuple[str, ...] = (
    "snapshot_date",
    "customer_key",
    "account_type",
    "main_category",
    "country",
    "birth_year",
    "gender",
    "acquisition_channel",
)

FEATURES: tuple[str, ...] = (
    # recency and tenure
    "days_since_last_order",
    "days_since_first_order",
    "is_tenure_censored",
    "days_since_created",
    # frequency
    "order_count_30d",
    "order_count_90d",
    "order_count_180d",
    "order_count_365d",
    "order_count_lifetime",
    "order_day_count_365d",
    # money and price level
    "revenue_amount_30d",
    "revenue_amount_90d",
    "revenue_amount_180d",
    "revenue_amount_365d",
    "margin_amount_365d",
    "average_order_amount_365d",
    "max_order_amount_365d",
    "average_unit_price_amount_365d",
    # rhythm
    "gap_mean_days",
    "gap_median_days",
    "gap_stddev_days",
    "gap_p90_days",
    "silence_ratio",
    "silence_p90_ratio",
    "alive_probability",
    "purchase_probability_30d",
    "order_count_change_90d",
    "revenue_amount_change_90d",
    "average_order_amount_change_90d",
    # returns, cancellations, discounts, coupons
    "return_count_365d",
    "return_amount_365d",
    "return_rate_365d",
    "days_since_last_return",
    "cancelled_order_count_365d",
    "cancelled_amount_365d",
    "discount_amount_365d",
    "discount_rate_365d",
    "discounted_order_rate_365d",
    "coupon_redeemed_count_365d",
    "open_coupon_count",
    # breadth
    "product_count_365d",
    "category_count_365d",
    "item_count_365d",
    "main_category_share_365d",
    "category_entropy_365d",
    # the same weeks a year ago
    "order_count_same_weeks_last_year",
    "revenue_amount_same_weeks_last_year",
    "same_weeks_order_share",
    "has_last_year",
    # deliveries
    "late_delivery_count_180d",
    "delivery_days_mean_180d",
    "undelivered_order_count",
    # events
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
    # service and reviews
    "ticket_count_90d",
    "ticket_count_365d",
    "open_ticket_count",
    "days_since_last_ticket",
    "csat_mean_365d",
    "review_count_365d",
    "rating_mean_365d",
    "last_rating",
    "rating_change",
    "low_rating_count_180d",
    "days_since_last_review",
    # e-mail engagement and contacts
    "email_open_count_90d",
    "email_click_count_90d",
    "email_open_rate_90d",
    "days_since_last_email_open",
    "contact_count_30d",
    "contact_count_90d",
    "contact_count_365d",
    "contact_response_rate_365d",
    "days_since_last_contact",
)

# What the date of a snapshot says by itself: no column of the mart, made by `feature_matrix`.
CALENDAR: tuple[str, ...] = ("day_of_year",)

# What a model is given. Of these it takes what its recipe names.
INPUTS: tuple[str, ...] = (*FEATURES, *CALENDAR)

# Attributes of a person that are no inputs unless a shop switches them on, and the context column
# that each is made of. A protected feature is named after its attribute: age_years, gender_female,
# country_DE.
PROTECTED: dict[str, str] = {"gender": "gender", "age": "birth_year", "country": "country"}
AGE = "age_years"
#: Values of fewer customers get no feature: it would be nearly a list of their names. So would be
#: the zeros of all flags, where the rest of the customers are fewer.
SMALLEST_GROUP = 300

# Missing means "never happened" or "cannot be known yet": no gap with one order, no cost delivered,
# no e-mail received. Everything else is a count, an amount or a flag, and always has a value.
NULLABLE: frozenset[str] = frozenset(
    {
        "days_since_created",
        "margin_amount_365d",
        "average_order_amount_365d",
        "max_order_amount_365d",
        "average_unit_price_amount_365d",
        "gap_mean_days",
        "gap_median_days",
        "gap_stddev_days",
        "gap_p90_days",
        "silence_ratio",
        "silence_p90_ratio",
        "alive_probability",
        "purchase_probability_30d",
        "average_order_amount_change_90d",
        "return_rate_365d",
        "days_since_last_return",
        "discount_rate_365d",
        "discounted_order_rate_365d",
        "main_category_share_365d",
        "category_entropy_365d",
        "order_count_same_weeks_last_year",
        "revenue_amount_same_weeks_last_year",
        "same_weeks_order_share",
        "delivery_days_mean_180d",
        "days_since_last_event",
        "days_since_last_cart",
        "event_decay_ratio_30d",
        "days_since_last_ticket",
        "csat_mean_365d",
        "rating_mean_365d",
        "last_rating",
        "rating_change",
        "days_since_last_review",
        "email_open_rate_90d",
        "days_since_last_email_open",
        "contact_response_rate_365d",
        "days_since_last_contact",
        AGE,
    }
)

RFM_FEATURES: tuple[str, ...] = (
    "days_since_last_order",
    "order_count_365d",
    "revenue_amount_365d",
)

# Trees of scikit-learn hold float32: a finite float64 beyond it would become infinite inside.
_LARGEST = float(np.finfo(np.float32).max)


class FeatureError(ValueError):
    """The frame breaks the feature contract; the message names each column and what is wrong."""


def protected_features(frame: pd.DataFrame, attributes: Sequence[str]) -> tuple[str, ...]:
    """Return the names of the features that the attributes switched on make of the customers.

    frame: customer_key and the context columns. attributes: of `PROTECTED`. Age is one number,
    gender and country a flag for every value that at least `SMALLEST_GROUP` customers have; none
    where they all have the same, or nobody delivers it. Where fewer than that, but some, have none
    of these values (or it is not known of them), the smallest value gets no flag either: no flag at
    all would tell of exactly those.

    Raises:
        ValueError: an attribute is none of `PROTECTED`.
    """
    unknown = sorted(set(attributes) - set(PROTECTED))
    if unknown:
        raise ValueError(
            f"{', '.join(unknown)}: no protected attribute; there are {', '.join(PROTECTED)}"
        )
    found: list[str] = []
    for attribute, column in PROTECTED.items():
        if attribute not in attributes or column not in frame or frame[column].isna().all():
            continue
        if attribute == "age":
            found.append(AGE)
            continue
        customers = frame.groupby(column)["customer_key"].nunique()
        if len(customers) < 2:
            continue
        by_size = customers.sort_values(ascending=False, kind="stable")
        flagged = by_size.index[by_size >= SMALLEST_GROUP]
        others = frame.loc[~frame[column].isin(flagged), "customer_key"].nunique()
        if 0 < others < SMALLEST_GROUP:
            flagged = flagged[:-1]
        found += sorted(f"{attribute}_{value}" for value in flagged)
    return tuple(found)


def protected_in(names: Sequence[str]) -> tuple[str, ...]:
    """Return the protected attributes that features of these names tell of."""
    return tuple(a for a in PROTECTED if any(n.startswith(f"{a}_") for n in names))


def _with_derived(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """Return the frame with the features among `names` that are made of its context columns."""
    made: dict[str, pd.Series] = {}
    for name in names:
        if name in frame:
            continue
        attribute, _, value = name.partition("_")
        if name == "day_of_year" and "snapshot_date" in frame:
            made[name] = pd.to_datetime(frame["snapshot_date"]).dt.dayofyear
        elif name == AGE and {"birth_year", "snapshot_date"} <= set(frame.columns):
            year = pd.to_datetime(frame["snapshot_date"]).dt.year
            made[name] = year - pd.to_numeric(frame["birth_year"], errors="coerce")
        elif attribute in PROTECTED and PROTECTED[attribute] in frame:
            made[name] = frame[PROTECTED[attribute]].eq(value).fillna(False).astype("float64")
    return frame.assign(**made) if made else frame


def feature_matrix(frame: pd.DataFrame, names: Sequence[str] = FEATURES) -> pd.DataFrame:
    """Return the columns `names` of `frame`, in that order, as float64.

    Booleans become 0/1, Decimals and integers floats; the index is kept; columns beyond `names`
    are dropped; where the frame lacks them, `CALENDAR` columns are made of snapshot_date and
    protected features of their context columns. NaN (missing) is allowed only in `NULLABLE`
    columns, infinity nowhere.

    Raises:
        FeatureError: a column is missing, appears twice, is not numeric, holds a missing value it
            may not hold, or an infinite one. All offending columns are named, never a value.
    """
    frame = _with_derived(frame, names)
    if (clean := _clean(frame, names)) is not None:
        return clean
    problems: list[str] = []
    columns: dict[str, np.ndarray] = {}
    present = set(frame.columns)
    for name in names:
        if name not in present:
            problems.append(f"{name}: is missing")
            continue
        series = frame[name]
        if isinstance(series, pd.DataFrame):
            problems.append(f"{name}: appears {series.shape[1]} times")
            continue
        try:
            values = _as_float(series)
        except TypeError as error:
            problems.append(f"{name}: {error}")
            continue
        infinite = int((np.abs(values) > _LARGEST).sum())
        if infinite:
            problems.append(f"{name}: {infinite} of {len(values)} values are not finite")
        if name not in NULLABLE:
            missing = int(np.isnan(values).sum())
            if missing:
                problems.append(f"{name}: {missing} of {len(values)} values are missing")
        columns[name] = values
    if problems:
        raise FeatureError(
            "the frame does not satisfy the feature contract (ml/features.py): "
            + "; ".join(problems)
        )
    return pd.DataFrame(columns, index=frame.index, columns=list(names), dtype="float64")


def _clean(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame | None:
    """Return the matrix of a frame of plain numbers that keeps the contract, else None.

    Seen by one look at all numbers. Column by column, which can say what is wrong, took 0.1 s for
    10,000 customers, and scoring and explaining hand the same ones through five steps.
    """
    if not frame.columns.is_unique:
        return None
    places = frame.columns.get_indexer(pd.Index(names))
    if (places < 0).any():
        return None
    asked = frame.iloc[:, places]
    kinds = {str(t.kind) if isinstance(t, np.dtype) else "?" for t in asked.dtypes.unique()}
    if kinds - {"b", "i", "u", "f"}:
        return None
    values = asked.to_numpy(dtype="float64")
    required = [i for i, name in enumerate(names) if name not in NULLABLE]
    if (np.abs(values) > _LARGEST).any() or np.isnan(values[:, required]).any():
        return None
    is_matrix = kinds == {"f"} and (asked.dtypes == np.float64).all()
    return asked if is_matrix else pd.DataFrame(values, index=frame.index, columns=list(names))


def _as_float(series: pd.Series) -> np.ndarray:
    """Return a numeric, boolean or Decimal column as float64 with NaN for missing."""
    if pd.api.types.is_numeric_dtype(series.dtype):  # true for booleans and Arrow decimals too
        if pd.api.types.is_complex_dtype(series.dtype):
            raise TypeError("is complex, expected a real number")
        return series.astype("float64").to_numpy(dtype="float64", na_value=np.nan)
    if series.dtype == object:
        present = series[series.notna()]
        allowed = (bool, int, float, Decimal, np.bool_, np.number)
        wrong = sorted({type(v).__name__ for v in present if not isinstance(v, allowed)})
        if wrong:
            raise TypeError(f"holds {', '.join(wrong)}, expected numbers")
        values = np.full(len(series), np.nan)
        values[series.notna().to_numpy()] = [float(v) for v in present]
        return values
    raise TypeError(f"has type {series.dtype}, expected a number")
