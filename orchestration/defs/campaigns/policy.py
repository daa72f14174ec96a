"""The policy of a campaign after a day: what the draw of the next one follows, and what is shown.

What belongs here: reading ledger, outcomes and segments for `ml/policy.py`, and the days between
the last published policy and the day asked for. What does not: the draw, the science.
"""

from __future__ import annotations

from datetime import date, timedelta
from typing import TYPE_CHECKING

from orchestration.defs.campaigns.reading import ledger_now, outcomes_of
from orchestration.tables import CUSTOMER_SEGMENTS, OFFER_POLICY

if TYPE_CHECKING:
    import pandas as pd

    from ml.bandit import Settings
    from ml.campaigns.definition import Campaign
    from orchestration.defs.daily import Run


def policy_of_draw(run: Run, campaign: Campaign, day: date) -> pd.DataFrame:
    """Return the policy that the draw of `day` follows: the one published for the eve.

    Where none is published yet, as within a range, it is worked out; it is published as used.
    """
    eve = day - timedelta(days=1)
    published = _published(run, campaign, eve)
    return policy_after(run, campaign, eve) if published is None else published


def policy_after(run: Run, campaign: Campaign, day: date) -> pd.DataFrame:
    """Return the policy for who is not assigned by the end of `day`, `ml.policy.COLUMNS`.

    Of a campaign without a bandit it is advice: what Thompson sampling would do.
    """
    from ml.bandit import update_policy
    from ml.policy import COLUMNS
    from ml.rfm import RFM_SEGMENTS

    if campaign.bandit is not None:
        return _in_force(run, campaign, day)
    log = _reward_log(run, campaign, day)
    advice = update_policy(log, campaign.weights, RFM_SEGMENTS, _settings(campaign))
    return advice.reindex(columns=COLUMNS)


def _in_force(run: Run, campaign: Campaign, day: date) -> pd.DataFrame:
    """Return the policy after `day`, stepping from the newest known one.

    The draw of a range comes before its policies are published, so it makes them itself: each is a
    function of the one before and of windows that have closed, and is published as it was used.
    """
    from ml.policy import next_policy, own_policy
    from ml.rfm import RFM_SEGMENTS

    settings, name = _settings(campaign), f"policy {campaign.id}"
    known: dict[date, pd.DataFrame] = run.once(name, dict)
    if day in known:
        return known[day]
    at, policy = campaign.start_date - timedelta(days=1), None
    if known and max(known) < day:
        at = max(known)
        policy = known[at]
    else:
        days = [d for d in run.platform.lake.days(OFFER_POLICY) if campaign.start_date <= d < day]
        for earlier in sorted(days, reverse=True):
            policy = _published(run, campaign, earlier)
            if policy is not None:
                at = earlier
                break
    if policy is None:
        policy = own_policy(campaign.weights, RFM_SEGMENTS, settings)
    while at < day:
        at += timedelta(days=1)
        policy = next_policy(
            _reward_log(run, campaign, at),
            campaign.weights,
            RFM_SEGMENTS,
            settings,
            policy,
            salt=f"policy:{campaign.id}:{run.platform.settings.seed}",
            planned_count=campaign.outcome.planned_customers,
        )
        known[at] = policy
    return policy


def _published(run: Run, campaign: Campaign, day: date) -> pd.DataFrame | None:
    """Return the campaign's policy as published for `day`, `ml.policy.COLUMNS`, or None."""
    from ml.policy import COLUMNS

    rows = run.platform.lake.read_frame(OFFER_POLICY, [day])
    rows = rows[rows["campaign_id"] == campaign.id]
    return rows.reindex(columns=COLUMNS).reset_index(drop=True) if len(rows) else None


def _settings(campaign: Campaign) -> Settings:
    from ml.bandit import Settings
    from ml.campaigns.definition import Bandit

    metric, own = campaign.outcome.primary_metric, campaign.bandit or Bandit()
    return Settings(
        reward="binary" if metric == "retained" else "normal",
        floor=own.floor,
        min_count=own.min_count,
        larger_is_better=metric != "discount_amount",
    )


def _reward_log(run: Run, campaign: Campaign, day: date) -> pd.DataFrame:
    """Return the log of the customers whose window has closed by `day`, see `ml.policy`."""
    import pandas as pd

    columns = ["customer_key", "segment", "arm", "propensity", "weights_json", "reward"]
    own = assigned(run, campaign)
    closed = own["assigned_date"] <= day - timedelta(days=campaign.outcome.window_days)
    if not closed.any():  # before the first window has closed nothing is read
        return pd.DataFrame(columns=columns)
    units = closed_units(run, campaign, own[closed], day)
    days = sorted(set(units["assigned_date"]))
    segments = run.platform.lake.read_frame(
        CUSTOMER_SEGMENTS, days, ["snapshot_date", "customer_key", "rfm_segment"]
    ).rename(columns={"snapshot_date": "assigned_date"})
    log = units.merge(segments, on=["assigned_date", "customer_key"], how="left")
    log["segment"] = log["segment"].where(log["segment"].notna(), log["rfm_segment"])
    return log.rename(columns={"outcome": "reward"})[columns]


def closed_units(run: Run, campaign: Campaign, own: pd.DataFrame, as_of: date) -> pd.DataFrame:
    """Return the ledger rows `own`, whose windows have closed, with the primary metric: outcome,
    and profit.

    A margin is taken net of contacts and of what has come back by `as_of`.
    """
    values = outcomes_of(run, campaign, own, as_of).set_index("customer_key")
    metric = campaign.outcome.primary_metric
    column = "profit_amount" if metric == "margin_amount" else metric
    return own.assign(
        outcome=own["customer_key"].map(values[column]).astype("float64"),
        profit=own["customer_key"].map(values["profit_amount"]).astype("float64"),
    )


def assigned(run: Run, campaign: Campaign) -> pd.DataFrame:
    """Return the campaign's rows of the ledger, as they are now."""
    ledger = ledger_now(run)
    return ledger[ledger["campaign_id"] == campaign.id].reset_index(drop=True)
