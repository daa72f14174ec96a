"""What all campaigns of a quarter earned together: the global holdout against everybody else.

What belongs here: the quarter as one campaign, and its ledger: the customers known when it began.
What does not: the draw (assignment.py), the reading (results.py).

The holdout is constant within a quarter and drawn anew for the next. Who becomes known later in the
quarter was not there to be held out from its first day, so the cohort is that of its start.
"""

from __future__ import annotations

import json
from datetime import date, timedelta

import numpy as np
import pandas as pd

from ml.campaigns.assignment import LEDGER_COLUMNS, holdout_key, uniforms
from ml.campaigns.definition import Arm, Campaign, Outcome
from ml.campaigns.strata import strata

HELD_OUT, CONTACTED = "held_out", "contacted"
QUARTER = "global_holdout_"  # how the id of every quarter begins


def quarter_of(day: date) -> tuple[date, date]:
    """First and last day of the calendar quarter of `day`."""
    first = date(day.year, 3 * ((day.month - 1) // 3) + 1, 1)
    following = date(first.year + first.month // 10, (first.month + 2) % 12 + 1, 1)
    return first, following - timedelta(days=1)


def holdout_campaign(day: date, share: float) -> Campaign:
    """The quarter of `day` as a campaign: assigned on the eve, its window is the quarter.

    Raises ValueError where nobody is held out.
    """
    if not 0 < share < 1:
        raise ValueError(f"a holdout of {share} holds nobody out, or everybody")
    first, last = quarter_of(day)
    return Campaign(
        stem=f"{QUARTER}{first.year}q{(first.month + 2) // 3}",
        name="All campaigns of a quarter",
        objective="What did all campaigns together earn?",
        approver="nobody",
        start_date=first - timedelta(days=1),
        channels=("email",),
        arms=(
            Arm(name=HELD_OUT, weight=share, play="none"),
            Arm(name=CONTACTED, weight=1 - share, play="reminder"),
        ),
        control_arm=HELD_OUT,
        global_holdout=0.0,
        outcome=Outcome(
            window_days=(last - first).days + 1,
            primary_metric="retained",
            minimum_effects={"retained": 0.01},
        ),
    )


def holdout_ledger(campaign: Campaign, customers: pd.DataFrame) -> pd.DataFrame:
    """Ledger rows of the customers known on the eve of the quarter.

    customers: customer_status of that day, and `monetary_score` where it is known. Not published:
    the draw is a function of quarter and customer, and the day's table says who was there.
    """
    customers = customers.sort_values("customer_key").reset_index(drop=True)
    eve, share = campaign.start_date, campaign.weights[HELD_OUT]
    drawn = uniforms(holdout_key(eve + timedelta(days=1)), customers["customer_key"])
    held = drawn < share
    frame = pd.DataFrame(
        {
            "assigned_date": eve,
            "campaign_id": campaign.id,
            "customer_key": customers["customer_key"],
            "arm": np.where(held, HELD_OUT, CONTACTED),
            "u_holdout": drawn,
            "u_layer": 0.0,
            "u_coverage": 0.0,
            "u_arm": drawn,
            "weights_json": json.dumps(campaign.weights, sort_keys=True),
            "propensity": np.where(held, share, 1 - share),
            "config_sha256": campaign.config_sha256,
            "snapshot_date": eve,
            "campaign_version": campaign.version,
            "layer": "global_holdout",
            "is_control": held,
            "window_end_date": campaign.window_end_date,
            "launch_power": None,
            "segment": None,
        }
    ).join(strata(customers))
    return frame[LEDGER_COLUMNS]
