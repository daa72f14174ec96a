"""Treatment of labels, from the ledger."""

from __future__ import annotations

from datetime import date

import pandas as pd

from ml.campaigns.treatment import COLUMNS, treatment

LABELS = pd.DataFrame(
    {
        "customer_key": ["a", "b", "c"],
        "snapshot_date": [date(2024, 1, 1)] * 3,
        "matured_date": [date(2024, 3, 31)] * 3,
    }
)


def ledger(*rows: tuple[str, date, str, str, float]) -> pd.DataFrame:
    names = ["customer_key", "assigned_date", "campaign_id", "arm", "propensity"]
    return pd.DataFrame(rows, columns=names)


def test_the_first_assignment_within_the_horizon_counts() -> None:
    found = treatment(
        LABELS,
        ledger(
            ("a", date(2024, 2, 1), "later", "coupon", 0.5),
            ("a", date(2024, 1, 1), "first", "control", 0.3),
            ("b", date(2023, 12, 31), "before", "coupon", 0.5),
            ("c", date(2024, 3, 31), "after", "coupon", 0.5),
        ),
    )
    assert tuple(found.columns) == COLUMNS
    assert found["treated_campaign_id"].tolist()[0] == "first"
    assert found["treated_arm"].tolist()[0] == "control"
    assert found["treatment_propensity"].tolist()[0] == 0.3
    assert found.iloc[1:].isna().all(axis=None)


def test_an_empty_ledger_and_empty_labels() -> None:
    assert treatment(LABELS, ledger()).isna().all(axis=None)
    assert len(treatment(LABELS.head(0), ledger(("a", date(2024, 1, 2), "x", "y", 0.5)))) == 0
