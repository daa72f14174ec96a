"""`lake/uplift_scores` and `lake/offer_policy`: what our own randomised campaigns teach.

What belongs here: reading ledger, outcomes and what was known at assignment, the call of `ml`, the
reason where there is nothing to publish. What does not: assignment (a campaign that follows the
policy reads it), learners, posteriors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.defs.campaigns.files import read_campaigns
from orchestration.defs.campaigns.reading import outcomes_of
from orchestration.defs.daily import SCIENCE, Made, Run, daily_asset, lake_key
from orchestration.tables import (
    CAMPAIGN_ASSIGNMENTS,
    CHURN_SCORES,
    CUSTOMER_SEGMENTS,
    OFFER_POLICY,
    UPLIFT_SCORES,
    mart_tables,
)

if TYPE_CHECKING:
    import pandas as pd

    from ml.campaigns.definition import Campaign
    from orchestration.resources.models import Uplift


def uplift_assets(partitions: dg.DailyPartitionsDefinition) -> list[dg.AssetsDefinition]:
    """Return the assets that learn from campaigns."""
    learnt_from = [lake_key(name) for name in ("campaign_assignments", "orders", "deliveries")]

    @daily_asset(
        UPLIFT_SCORES,
        partitions,
        deps=[*learnt_from, lake_key("customer_features"), lake_key("churn_scores")],
        group="uplift",
        owner=SCIENCE,
        description=(
            "How much each offer of a finished campaign is expected to change each customer of the "
            "population. Empty, with the reason, while no learner beats the response model, churn "
            "risk, nobody and everybody."
        ),
        kinds={"scikitlearn", "deltalake"},
    )
    def uplift_scores(run: Run, day: date) -> Made:
        import pandas as pd

        from ml.uplift.trials import ranked_scores

        lake, features_table = run.platform.lake, mart_tables()["customer_features"]
        found = lake.require(features_table, day)
        ended = [campaign for campaign in _campaigns(run) if campaign.window_end_date <= day]
        frames: list[pd.DataFrame] = []
        inputs = {f"customer_features/{day}": found.content_hash}
        metadata: dict[str, Any] = {}
        features: pd.DataFrame | None = None
        for campaign in ended:
            for arm in campaign.weights:
                if arm == campaign.control_arm:
                    continue
                make = partial(_lesson, run, campaign, arm)
                lesson: _Lesson = run.once(f"uplift {campaign.id} {arm}", make)
                metadata |= lesson.metadata(f"{campaign.id} {arm}")
                if lesson.uplift is None or not lesson.uplift.is_promoted:
                    continue
                if features is None:
                    features = lake.read_frame(features_table, [day], money_as_float=True)
                ref = lesson.uplift.ref
                model = run.once(f"model {ref.name}", partial(run.platform.models.load, ref))
                scores = ranked_scores(model, features).assign(
                    snapshot_date=day,
                    campaign_id=campaign.id,
                    arm=arm,
                    metric=campaign.outcome.primary_metric,
                    learner=ref.recipe,
                    model_version=str(ref.version),
                    learned_until_date=ref.last_matured_date,
                )
                scores["contact_cost_amount"] = pd.Series(
                    [campaign.contact_cost(arm)] * len(scores), dtype="object"
                )
                frames.append(scores)
                inputs[f"{ref.name}:{ref.version}"] = ref.sha256
        if not ended:
            metadata["reason"] = f"no campaign of this shop has ended by {day}"
        rows = (
            pd.concat(frames, ignore_index=True)
            if frames
            else pd.DataFrame(columns=list(UPLIFT_SCORES.column_names))
        )
        metadata |= {"offers": len(frames), "customers": found.row_count if frames else 0}
        return Made(rows, generation=found.generation, inputs=inputs, metadata=metadata)

    @daily_asset(
        OFFER_POLICY,
        partitions,
        deps=[*learnt_from, lake_key("customer_segments")],
        group="uplift",
        owner=SCIENCE,
        description=(
            "For each running campaign, with which probability a customer who is not assigned yet "
            "should get which arm: Thompson sampling by segment with a floor, from the customers "
            "whose outcome window has closed."
        ),
        kinds={"deltalake"},
    )
    def offer_policy(run: Run, day: date) -> Made:
        import pandas as pd

        found = run.platform.lake.require(CUSTOMER_SEGMENTS, day)
        running = [
            campaign
            for campaign in _campaigns(run)
            if campaign.start_date <= day <= campaign.window_end_date
        ]
        frames: list[pd.DataFrame] = []
        metadata: dict[str, Any] = {}
        for campaign in running:
            policy = _policy(run, campaign, day)
            frames.append(policy.assign(snapshot_date=day, campaign_id=campaign.id))
            metadata |= {
                f"{campaign.id} {row['arm']} propensity": float(row["propensity"])
                for row in policy[policy["segment"] == "all"].to_dict("records")
            }
        rows = (
            pd.concat(frames, ignore_index=True)
            if frames
            else pd.DataFrame(columns=list(OFFER_POLICY.column_names))
        )
        if not running:
            metadata["reason"] = f"no campaign runs on {day}"
        return Made(rows, generation=found.generation, metadata={"rows": len(rows), **metadata})

    return [uplift_scores, offer_policy]


@dataclass(frozen=True)
class _Lesson:
    """What one arm of an ended campaign taught; `reason` where it taught nothing at all."""

    uplift: Uplift | None
    reason: str = ""
    counts: dict[str, Any] = field(default_factory=dict)

    def metadata(self, offer: str) -> dict[str, Any]:
        """Return what Dagster shows of it, under the name of the offer."""
        if self.uplift is None:
            return {f"{offer} reason": self.reason}
        return {
            f"{offer} promoted": int(self.uplift.is_promoted),
            f"{offer} reason": self.uplift.reason,
            f"{offer} comparison": dg.MetadataValue.md(self.uplift.table),
            **{f"{offer} {name}": value for name, value in self.counts.items()},
        }


def _lesson(run: Run, campaign: Campaign, arm: str) -> _Lesson:
    """Return what an arm taught: registered on the first day after its end, read ever after."""
    from ml.experiments.srm import SRM_ALARM, srm_p_value
    from ml.uplift.training import MIN_UNITS_PER_ARM
    from ml.uplift.trials import learn_from, make_trial

    standing = run.platform.models.uplift(campaign.id, arm)
    if standing is not None:
        return _Lesson(standing)
    own = _assigned(run, campaign)
    counts = {name: int(own["arm"].eq(name).sum()) for name in campaign.weights}
    few = min(counts[arm], counts[campaign.control_arm])
    if few < MIN_UNITS_PER_ARM:  # told by the ledger alone: no order is read for it
        return _Lesson(
            None, f"{few} customers in the arm or the control, {MIN_UNITS_PER_ARM} are needed"
        )
    if srm_p_value(list(counts.values()), list(campaign.weights.values())) < SRM_ALARM:
        return _Lesson(None, "the arms do not have the sizes that the weights say: nothing is read")
    lake, last = run.platform.lake, campaign.window_end_date
    units = _closed_units(run, campaign, own, last)
    days = sorted(set(units["assigned_date"]))
    trial = make_trial(
        units,
        lake.read_frame(mart_tables()["customer_features"], days, money_as_float=True),
        lake.read_frame(CHURN_SCORES, days, ["snapshot_date", "customer_key", "churn_probability"]),
        arm,
        campaign.control_arm,
    )
    learned = learn_from(trial, seed=run.platform.settings.seed)
    if isinstance(learned, str):
        return _Lesson(None, learned)
    tags = {"dagster_run_id": run.run_id, "config_sha256": campaign.config_sha256}
    uplift = run.platform.models.register_uplift(campaign.id, arm, learned, last, tags)
    counts = {"customers": len(trial.units), "without_features": trial.left_out}
    return _Lesson(uplift, counts=counts)


def _policy(run: Run, campaign: Campaign, day: date) -> pd.DataFrame:
    """Return the policy of a campaign after `day`, in the columns of the table."""
    from ml.bandit import Settings, update_policy
    from ml.rfm import RFM_SEGMENTS

    metric = campaign.outcome.primary_metric
    log = _reward_log(run, campaign, day)
    policy = update_policy(
        log,
        campaign.weights,
        RFM_SEGMENTS,
        Settings(reward="binary" if metric == "retained" else "normal"),
    )
    return policy.assign(metric=metric)


def _reward_log(run: Run, campaign: Campaign, day: date) -> pd.DataFrame:
    """Return segment, arm, propensity, reward of the customers whose window has closed by `day`."""
    import pandas as pd

    own = _assigned(run, campaign)
    closed = own["assigned_date"] <= day - timedelta(days=campaign.outcome.window_days)
    if not closed.any():  # before the first window has closed nothing is read
        return pd.DataFrame(columns=["segment", "arm", "propensity", "reward"])
    units = _closed_units(run, campaign, own[closed], day)
    days = sorted(set(units["assigned_date"]))
    segments = run.platform.lake.read_frame(
        CUSTOMER_SEGMENTS, days, ["snapshot_date", "customer_key", "rfm_segment"]
    ).rename(columns={"snapshot_date": "assigned_date", "rfm_segment": "segment"})
    log = units.merge(segments, on=["assigned_date", "customer_key"], how="left")
    return log.rename(columns={"outcome": "reward"})[["segment", "arm", "propensity", "reward"]]


def _closed_units(run: Run, campaign: Campaign, own: pd.DataFrame, as_of: date) -> pd.DataFrame:
    """Return the ledger rows `own`, whose windows have closed, with the primary metric: outcome.

    A margin is taken net of contacts and of what has come back by `as_of`.
    """
    values = outcomes_of(run, campaign, own, as_of).set_index("customer_key")
    metric = campaign.outcome.primary_metric
    column = "profit_amount" if metric == "margin_amount" else metric
    return own.assign(outcome=own["customer_key"].map(values[column]).astype("float64"))


def _assigned(run: Run, campaign: Campaign) -> pd.DataFrame:
    """Return the campaign's rows of the ledger."""
    ledger = run.platform.lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    return ledger[ledger["campaign_id"] == campaign.id].reset_index(drop=True)


def _campaigns(run: Run) -> tuple[Campaign, ...]:
    campaigns: tuple[Campaign, ...] = run.once(
        "campaigns", lambda: read_campaigns(run.platform.home)
    )
    return campaigns
