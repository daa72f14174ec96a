"""Who is judged worse than others: the slices of a comparison, and fairness by protected attribute.

Belongs here: naming the slices of customers, and measuring scores within each. Does not belong
here: what follows from it for a promotion (ml.promotion).

Protected attributes (gender, age, country) are no features unless a shop switches them on
(ml.features). That does not make scores equal between groups, so it is measured, wherever a shop
knows them.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
import pandas as pd

from ml.features import protected_in
from ml.metrics import evaluate
from ml.scoring import HIGH_RISK

#: Fewer customers are shown and never decide: the standard error of an AUC is then above .03.
SMALLEST_SLICE = 300
#: Groups of fewer customers are shown together, as "other": a rate of three is nearly their names.
SMALLEST_SHOWN = 10
NEW_DAYS = 180
#: Columns of the frame that are slices as they stand, where they are there.
OPTIONAL = ("account_type", "country", "acquisition_channel")
#: What is known of a person by which scores are compared, and whether a campaign may reach them.
PERSON = ("gender", "birth_year", "is_reachable", "is_eligible")
#: The protected attributes of ml.features, as they are told of: age in bands.
ATTRIBUTES = ("gender", "age_band", "country")
_AGE_EDGES = (0, 18, 25, 35, 45, 55, 65, 200)
TIERS = ("low", "middle", "high")
UNKNOWN, OTHER = "unknown", "other"
_MEASURES = (
    "row_count",
    "churn_rate",
    "mean_probability",
    "calibration_bias",
    "log_loss",
    "brier",
    "roc_auc",
)
SLICE_COLUMNS = (
    "slice",
    "value",
    "customer_count",
    "is_gated",
    *_MEASURES,
    "high_risk_share",
    "reachable_share",
    "eligible_share",
)


def slices(frame: pd.DataFrame) -> dict[str, pd.Series]:
    """Return the slices of customers by name: one text per row of `frame`, its index kept.

    tenure: new (first order less than 180 days ago) or old. value_tier: `value_tier`. contact:
    contacted within the horizon or not. And `OPTIONAL` columns, of which a value that is missing is
    "unknown".
    """
    index = frame.index
    found = {
        "tenure": pd.Series(
            np.where(frame["days_since_first_order"] < NEW_DAYS, "new", "old"), index
        ),
        "value_tier": value_tier(frame),
        "contact": pd.Series(np.where(frame["was_contacted"], "contacted", "not contacted"), index),
    }
    for name in OPTIONAL:
        if name in frame.columns:
            found[name] = frame[name].astype(object).where(frame[name].notna(), UNKNOWN)
    return found


def value_tier(frame: pd.DataFrame) -> pd.Series:
    """Return the low, middle and high thirds of revenue_amount_365d within each snapshot.

    Equal amounts are in one tier, so where more than a third brought nothing low is the largest.
    """
    rank = frame.groupby("snapshot_date")["revenue_amount_365d"].rank(pct=True, method="average")
    tier = np.select([rank <= 1 / 3, rank <= 2 / 3], TIERS[:2], default=TIERS[2])
    return pd.Series(tier, frame.index)


def slice_table(
    predictions: pd.DataFrame, by: Mapping[str, pd.Series], column: str
) -> pd.DataFrame:
    """Return one row per slice and value with the metrics of one column of predictions.

    predictions: customer_key, is_churned and `column`, the index of `by`; is_reachable (consents to
    any channel) and is_eligible (no rule of campaigns excludes) where they are known. Columns:
    `SLICE_COLUMNS`; high_risk_share is that of p >= 2/3, reachable_share and eligible_share are
    missing where they cannot be known. Sorted, largest first within a slice. Values of fewer than
    `SMALLEST_SHOWN` customers are one row, "other", and none where that has as few.
    """
    rows = []
    keys = predictions["customer_key"]
    for slice_name, values in by.items():
        few = keys.groupby(values).nunique() < SMALLEST_SHOWN
        shown = values.astype(object).mask(values.map(few).astype(bool), OTHER)
        for value, own in predictions.groupby(shown, sort=True):
            count = int(own["customer_key"].nunique())
            if count < SMALLEST_SHOWN:
                continue
            found = evaluate(own["is_churned"].to_numpy(), own[column].to_numpy())
            missing = pd.Series(np.nan, own.index)
            reachable, eligible = (
                own.get(name, missing).astype("float64") for name in ("is_reachable", "is_eligible")
            )
            rows.append(
                {
                    "slice": slice_name,
                    "value": str(value),
                    "customer_count": count,
                    "is_gated": count >= SMALLEST_SLICE,
                    **{name: found[name] for name in _MEASURES},
                    "high_risk_share": float((own[column] >= HIGH_RISK).mean()),
                    "reachable_share": float(reachable.mean()),
                    "eligible_share": float(eligible.mean()),
                }
            )
    return pd.DataFrame(rows, columns=list(SLICE_COLUMNS)).sort_values(
        ["slice", "customer_count", "value"], ascending=[True, False, True], ignore_index=True
    )


def age_band(birth_year: pd.Series, year: pd.Series) -> pd.Series:
    """Return the age band in a year, e.g. "25-34", "unknown" where the birth is missing or absurd.

    Ages are those reached within the year, since only the year of birth is known.
    """
    age = year - pd.to_numeric(birth_year, errors="coerce")
    labels = [f"{a}-{b - 1}" for a, b in pairwise(_AGE_EDGES[1:-1])]
    names = [f"under {_AGE_EDGES[1]}", *labels, f"{_AGE_EDGES[-2]} and over"]
    bands = pd.cut(age.astype("float64"), list(_AGE_EDGES), right=False, labels=names)
    return bands.astype(object).where(bands.notna(), UNKNOWN)


def fairness(
    predictions: pd.DataFrame, column: str, features: tuple[str, ...] = ()
) -> tuple[pd.DataFrame, str]:
    """Return the slices by protected attribute, and in words what is and what cannot be compared.

    predictions: as for `slice_table`, with snapshot_date and any of gender, country, birth_year.
    features: what the model was given; protected attributes among them are named in the text.
    """
    known: dict[str, pd.Series] = {}
    for name in ("gender", "country"):
        if name in predictions:
            known[name] = predictions[name]
    if "birth_year" in predictions:
        years = pd.to_datetime(predictions["snapshot_date"]).dt.year
        known["age_band"] = age_band(predictions["birth_year"], years)
    by = {
        name: known[name].astype(object).where(known[name].notna(), UNKNOWN)
        for name in ATTRIBUTES
        if name in known
    }
    by = {name: values for name, values in by.items() if (values != UNKNOWN).any()}
    used = protected_in(features)
    told = [
        f"The model uses {', '.join(used)} as features, switched on by the shop."
        if used
        else "Gender, age and country are no features of the model."
    ]
    absent = [name for name in ATTRIBUTES if name not in by]
    if absent:
        told.append(f"Not known here, so not compared: {', '.join(absent)}.")
    return slice_table(predictions, by, column), " ".join(told)
