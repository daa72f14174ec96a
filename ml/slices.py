"""Who is judged worse than others: the slices of a comparison, and fairness by protected attribute.

Belongs here: naming the slices of customers, and measuring scores within each. Does not belong
here: what follows from it for a promotion (ml.promotion).

Protected attributes (gender, age, country) are no features (ml.features). That does not make scores
equal between groups, so it is measured, wherever a shop knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from itertools import pairwise

import numpy as np
import pandas as pd

from ml.metrics import evaluate

#: Fewer customers are shown and never decide: the standard error of an AUC is then above .03.
SMALLEST_SLICE = 300
NEW_DAYS = 180
#: Columns of the frame that are slices as they stand, where they are there.
OPTIONAL = ("account_type", "country", "acquisition_channel")
PROTECTED = ("gender", "age_band", "country")
_AGE_EDGES = (0, 18, 25, 35, 45, 55, 65, 200)
UNKNOWN = "unknown"
FAIRNESS_COLUMNS = (
    "attribute",
    "value",
    "customer_count",
    "is_small",
    "mean_probability",
    "high_risk_share",
    "churn_rate",
    "calibration_bias",
    "eligible_share",
)


def slices(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the slices of customers by name: one text per row of `frame`, its index kept.

    tenure: new (first order less than 180 days ago) or old. value_tier: low, middle, high thirds of
    revenue_amount_365d within each snapshot, equal amounts in one tier. contact: contacted within
    the horizon or not. And `OPTIONAL` columns, of which a value that is missing is "unknown".
    """
    rank = frame.groupby("snapshot_date")["revenue_amount_365d"].rank(pct=True, method="average")
    tier = np.select([rank <= 1 / 3, rank <= 2 / 3], ["low", "middle"], default="high")
    index = frame.index
    found = {
        "tenure": pd.Series(
            np.where(frame["days_since_first_order"] < NEW_DAYS, "new", "old"), index
        ),
        "value_tier": pd.Series(tier, index),
        "contact": pd.Series(np.where(frame["was_contacted"], "contacted", "not contacted"), index),
    }
    for name in OPTIONAL:
        if name in frame.columns:
            found[name] = frame[name].astype(object).where(frame[name].notna(), UNKNOWN)
    return found


def slice_table(
    predictions: pd.DataFrame, by: Mapping[str, pd.Series], column: str
) -> pd.DataFrame:
    """Return one row per slice and value with the metrics of one column of predictions.

    predictions: customer_key, is_churned and `column`, the index of `by`. Columns: slice, value,
    customer_count, row_count, is_gated, churn_rate, mean_probability, calibration_bias, log_loss,
    brier, roc_auc; sorted, largest first within a slice.
    """
    names = (
        "row_count",
        "churn_rate",
        "mean_probability",
        "calibration_bias",
        "log_loss",
        "brier",
        "roc_auc",
    )
    rows = []
    for slice_name, values in by.items():
        for value, own in predictions.groupby(values, sort=True):
            found = evaluate(own["is_churned"].to_numpy(), own[column].to_numpy())
            count = int(own["customer_key"].nunique())
            rows.append(
                {
                    "slice": slice_name,
                    "value": str(value),
                    "customer_count": count,
                    "is_gated": count >= SMALLEST_SLICE,
                    **{name: found[name] for name in names},
                }
            )
    return pd.DataFrame(rows).sort_values(
        ["slice", "customer_count", "value"], ascending=[True, False, True], ignore_index=True
    )


def age_band(birth_year: pd.Series, day: date) -> pd.Series:
    """Return the age band on `day`, e.g. "25-34", "unknown" where the year is missing or absurd.

    Ages are those reached within the year, since only the year of birth is known.
    """
    age = day.year - pd.to_numeric(birth_year, errors="coerce")
    labels = [f"{a}-{b - 1}" for a, b in pairwise(_AGE_EDGES[1:-1])]
    names = [f"under {_AGE_EDGES[1]}", *labels, f"{_AGE_EDGES[-2]} and over"]
    bands = pd.cut(age, list(_AGE_EDGES), right=False, labels=names)
    return bands.astype(object).where(bands.notna(), UNKNOWN)


def fairness(
    scores: pd.DataFrame,
    attributes: pd.DataFrame,
    day: date,
    *,
    eligible: pd.Series | None = None,
    features: tuple[str, ...] = (),
) -> tuple[pd.DataFrame, str]:
    """Return scores, calibration and eligibility by protected attribute, and the verdict in words.

    scores: customer_key, churn_probability, and is_churned where the label has matured.
    attributes: customer_key with any of gender, country, birth_year. eligible: whether a campaign
    may contact the customer, by customer_key. features: what the model was given; attributes among
    them are named in the text. A group of fewer than 300 customers is shown, and marked.

    Columns: `FAIRNESS_COLUMNS`; high_risk_share is that of p >= 2/3; missing where it cannot be
    known.
    """
    known = attributes.copy()
    if "birth_year" in known:
        known["age_band"] = age_band(known["birth_year"], day)
    rows = scores.merge(known, on="customer_key", how="left", validate="one_to_one")
    if eligible is not None:
        rows["is_eligible"] = rows["customer_key"].map(eligible).astype("float64")
    found, absent = [], []
    for name in PROTECTED:
        if name not in rows or rows[name].isna().all() or (rows[name] == UNKNOWN).all():
            absent.append(name)
            continue
        values = rows[name].astype(object).where(rows[name].notna(), UNKNOWN)
        for value, own in rows.groupby(values, sort=True):
            p = own["churn_probability"]
            rate = own["is_churned"].mean() if "is_churned" in own else np.nan
            found.append(
                {
                    "attribute": name,
                    "value": str(value),
                    "customer_count": len(own),
                    "is_small": len(own) < SMALLEST_SLICE,
                    "mean_probability": p.mean(),
                    "high_risk_share": (p >= 2 / 3).mean(),
                    "churn_rate": rate,
                    "calibration_bias": p.mean() - rate,
                    "eligible_share": own["is_eligible"].mean() if "is_eligible" in own else np.nan,
                }
            )
    used = [name for name in ("gender", "birth_year", "age_band", "country") if name in features]
    told = [
        f"The model uses {', '.join(used)}, switched on by the shop."
        if used
        else "Gender, age and country are no features of the model."
    ]
    if absent:
        told.append(f"Not known here, so not compared: {', '.join(absent)}.")
    return pd.DataFrame(found, columns=list(FAIRNESS_COLUMNS)), " ".join(told)
