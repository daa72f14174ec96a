"""How long a campaign of a million customers takes to draw: audience, rules, hashes, ledger rows.

    python benchmarks/campaign_assignment.py [--customers 1000000]

Prints processor seconds of one process (the hashes use one core), for the draw alone and for the
whole cohort with an audience, eligibility, a limit, strata, and a ledger of another campaign of the
same layer that holds a tenth of the customers.
"""

from __future__ import annotations

import argparse
import resource
import time
from datetime import date, timedelta

import numpy as np
import pandas as pd

from ml.campaigns.assignment import assign, empty_ledger
from ml.campaigns.cohorts import build_cohort
from ml.campaigns.definition import Campaign

DAY = date(2025, 5, 1)
CAMPAIGN = {
    "id": "benchmark",
    "name": "Benchmark",
    "objective": "How long does it take?",
    "approver": "Nobody",
    "start_date": DAY,
    "channels": ["email", "sms"],
    "arms": [
        {"name": "control", "weight": 0.4, "play": "none"},
        {"name": "reminder", "weight": 0.3, "play": "reminder"},
        {"name": "coupon", "weight": 0.3, "play": "coupon", "discount_amount": 10},
    ],
    "control_arm": "control",
    "audience": [{"field": "risk_band", "operator": "in", "value": ["high", "medium", "low"]}],
    "limit": {"field": "margin_at_risk_amount", "customers": 10**9},
    "outcome": {
        "window_days": 28,
        "primary_metric": "retained",
        "minimum_effects": {"retained": 0.01},
    },
}


def shop(n: int) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """The published partitions of a day, as the lake gives them."""
    rng = np.random.default_rng(7)
    keys = pd.Series([f"{i * 2654435761 % 2**64:032x}" for i in range(n)], dtype="str")
    status = pd.DataFrame(
        {
            "snapshot_date": DAY,
            "customer_key": keys,
            "account_type": rng.choice(["consumer", "business"], n, p=[0.97, 0.03]),
            "days_since_last_order": rng.integers(1, 180, n),
            "last_contact_date": pd.Series([None] * n, dtype="object"),
            **dict.fromkeys(("has_email_consent", "has_sms_consent"), rng.random(n) < 0.9),
            **{
                name: (rng.random(n) < 0.02).astype(int)
                for name in (
                    "open_ticket_count",
                    "ticket_count_30d",
                    "low_rating_count_90d",
                    "undelivered_order_count",
                    "return_count_30d",
                    "contact_count_7d",
                    "contact_count_30d",
                )
            },
        }
    )
    scores = pd.DataFrame(
        {
            "customer_key": keys,
            "risk_band": rng.choice(["high", "medium", "low"], n),
            "margin_at_risk_amount": rng.lognormal(3, 1, n),
        }
    )
    segments = pd.DataFrame({"customer_key": keys, "monetary_score": rng.integers(1, 6, n)})
    return status, {"churn_scores": scores, "customer_segments": segments}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--customers", type=int, default=1_000_000)
    n = parser.parse_args().customers
    status, tables = shop(n)
    campaign = Campaign.model_validate(CAMPAIGN)
    earlier = Campaign.model_validate(
        CAMPAIGN | {"id": "earlier", "coverage": 0.1, "start_date": DAY - timedelta(days=9)}
    )
    ledger = assign(earlier, status["customer_key"], earlier.start_date, empty_ledger())

    for name, run in (
        ("draw alone", lambda: assign(campaign, status["customer_key"], DAY, empty_ledger())),
        ("whole cohort", lambda: build_cohort(campaign, status, tables, ledger, DAY)[0]),
    ):
        wall, cpu = time.perf_counter(), time.process_time()
        rows = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"{name:14}{n:>10,} customers {len(rows):>10,} assigned {cpu:6.2f} s processor "
              f"{wall:6.2f} s wall")  # fmt: skip
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20:.2f} GB")


if __name__ == "__main__":
    main()
