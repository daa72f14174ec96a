"""Treatment of labels, from the ledger."""

from __future__ import annotations

from datetime import date

import pandas as pd

from ml.campaigns.treatment import COLUMNS, label_treatments

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
    found = label_treatments(
        LABELS,
        ledger(
            ("a", date(2024, 2, 1), "later", "coupon", 0.5),
            ("a", date(2024, 1, 1), "first", "control", 0.3),
            ("b", date(2023, 12, 31), "before", "coupon", 0.5),
            ("c", date(2024, 3, 31), "after", "coupon", 0.5),
        ),
    )
    assert list(found.columns) == COLUMNS
    assert found[["customer_key", "campaign_id", "arm", "propensity"]].to_numpy().tolist() == [
        ["a", "first", "control", 0.3]
    ]


def test_an_empty_ledger_and_empty_labels() -> None:
    assert label_treatments(LABELS, ledger()).empty
    assert label_treatments(LABELS.head(0), ledger(("a", date(2024, 1, 2), "x", "y", 0.5))).empty
