"""A small shop for one day, and a campaign file to start from."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import date
from typing import Any, get_args

import numpy as np
import pandas as pd
import yaml

from ml.campaigns.definition import Campaign, Channel, parse_campaign

DAY = date(2025, 5, 1)
DOCUMENT: dict[str, Any] = {
    "id": "winback_1",
    "name": "Win back",
    "objective": "Does a reminder bring customers back?",
    "approver": "Ada Lovelace",
    "start_date": DAY,
    "channels": ["email"],
    "arms": [
        {"name": "control", "weight": 0.5, "play": "none"},
        {"name": "reminder", "weight": 0.5, "play": "reminder", "offer": "We miss you"},
    ],
    "control_arm": "control",
    "audience": [{"field": "risk_band", "operator": "in", "value": ["high", "medium"]}],
    "global_holdout": 0.05,
    "outcome": {
        "window_days": 30,
        "primary_metric": "retained",
        "minimum_effects": {"retained": 0.05},
    },
    "contact_cost_amount": 0.1,
}


def document(**changes: Any) -> dict[str, Any]:
    """The campaign's document with some fields replaced."""
    return {**DOCUMENT, **changes}


def campaign(**changes: Any) -> Campaign:
    """The campaign with some fields replaced."""
    return parse_campaign(yaml.safe_dump(document(**changes)), "winback.yaml")


def conditions(*of: tuple[str, str, Any]) -> list[dict[str, Any]]:
    """An audience of (field, operator, value)."""
    return [dict(zip(("field", "operator", "value"), each, strict=True)) for each in of]


def keys(n: int, prefix: str = "") -> list[str]:
    """Customer keys as the platform makes them: 32 hex characters."""
    return [hashlib.sha256(f"{prefix}{i}".encode()).hexdigest()[:32] for i in range(n)]


@dataclass
class Shop:
    """The published partitions of one day."""

    status: pd.DataFrame
    scores: pd.DataFrame
    segments: pd.DataFrame

    @property
    def frames(self) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
        return self.status, {"churn_scores": self.scores, "customer_segments": self.segments}


def make_shop(n: int = 1_000, day: date = DAY, seed: int = 1) -> Shop:
    """A shop in which everybody may be contacted and no rule excludes anybody."""
    rng = np.random.default_rng(seed)
    customers = keys(n)
    status = pd.DataFrame(
        {
            "snapshot_date": day,
            "customer_key": customers,
            "account_type": "consumer",
            "lifecycle": "active",
            "days_since_last_order": rng.integers(20, 180, n),
            "open_ticket_count": 0,
            "ticket_count_30d": 0,
            "low_rating_count_90d": 0,
            "undelivered_order_count": 0,
            "return_count_30d": 0,
            "contact_count_7d": 0,
            "contact_count_30d": 0,
            "last_contact_date": None,
            **{f"has_{channel}_consent": True for channel in get_args(Channel)},
        }
    )
    probability = rng.random(n).round(6)
    scores = pd.DataFrame(
        {
            "snapshot_date": day,
            "customer_key": customers,
            "churn_probability": probability,
            "risk_band": np.select(
                [probability > 0.66, probability > 0.33], ["high", "medium"], "low"
            ),
            "reason_1": "long silence",
            "expected_margin_amount": rng.lognormal(3, 1, n).round(4),
        }
    )
    scores["margin_at_risk_amount"] = (probability * scores["expected_margin_amount"]).round(4)
    segments = pd.DataFrame(
        {
            "snapshot_date": day,
            "customer_key": customers,
            "rfm_segment": rng.choice(["At risk", "Lost", "Loyal"], n),
            "cluster_name": "recent frequent high spenders",
            "monetary_score": rng.integers(1, 6, n),
        }
    )
    return Shop(status, scores, segments)
