"""`lake/uplift_scores` and `lake/offer_policy`: what our own randomised campaigns teach.

What belongs here: reading ledger, outcomes and what was known at assignment, the call of `ml`, the
reason where there is nothing to publish. What does not: assignment, the policy itself
(defs/campaigns/policy.py), learners.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import date
from functools import partial
from typing import TYPE_CHECKING, Any

import dagster as dg

from orchestration.defs.campaigns.policy import assigned, closed_units, policy_after
from orchestration.defs.campaigns.reading import forecasts_on, started
from orchestration.defs.daily import SCIENCE, Made, Run, daily_asset, lake_key
from orchestration.defs.models.assets import run_tags
from orchestration.tables import (
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
            "population, and would earn. Empty, with the reason, while no learner beats the "
            "response model, churn risk, nobody and everybody, by ranking and by profit."
        ),
        kinds={"scikitlearn", "deltalake"},
        code_version="2",
    )
    def uplift_scores(run: Run, day: date) -> Made:
        import pandas as pd

        from ml.uplift.trials import ranked_scores

        lake, features_table = run.platform.lake, mart_tables()["customer_features"]
        found = lake.require(features_table, day)
        ended = [campaign for campaign in started(run, day) if campaign.settled_date <= day]
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
                assert lesson.uplift.of_profit is not None
                earned = lesson.uplift.of_profit
                money = run.once(f"model {earned.name}", partial(run.platform.models.load, earned))
                scores = ranked_scores(model, money, features).assign(
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
            metadata["reason"] = f"no campaign of this shop has ended and settled by {day}"
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
            "gets which arm: Thompson sampling by segment with a floor, from the customers whose "
            "outcome window has closed, promoted by off-policy evaluation; else it is advice."
        ),
        kinds={"deltalake"},
        code_version="2",
    )
    def offer_policy(run: Run, day: date) -> Made:
        import pandas as pd

        found = run.platform.lake.require(CUSTOMER_SEGMENTS, day)
        running = [
            campaign
            for campaign in started(run, day)
            if campaign.start_date <= day <= campaign.window_end_date
        ]
        frames: list[pd.DataFrame] = []
        metadata: dict[str, Any] = {}
        for campaign in running:
            policy = policy_after(run, campaign, day)
            frames.append(
                policy.assign(
                    snapshot_date=day,
                    campaign_id=campaign.id,
                    metric=campaign.outcome.primary_metric,
                )
            )
            verdict = policy["verdict"].iloc[0]
            if isinstance(verdict, str):
                metadata[f"{campaign.id} verdict"] = verdict
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
    own = assigned(run, campaign)
    counts = {name: int(own["arm"].eq(name).sum()) for name in campaign.weights}
    few = min(counts[arm], counts[campaign.control_arm])
    if few < MIN_UNITS_PER_ARM:  # told by the ledger alone: no order is read for it
        return _Lesson(
            None, f"{few} customers in the arm or the control, {MIN_UNITS_PER_ARM} are needed"
        )
    drawn = {text: json.loads(text) for text in set(own["weights_json"])}
    expected = [sum(drawn[text][name] for text in own["weights_json"]) for name in counts]
    if srm_p_value(list(counts.values()), expected) < SRM_ALARM:
        return _Lesson(None, "the arms do not have the sizes that the weights say: nothing is read")
    lake, last = run.platform.lake, campaign.settled_date
    units = closed_units(run, campaign, own, last)
    days = sorted(set(units["assigned_date"]))
    trial = make_trial(
        units,
        lake.read_frame(mart_tables()["customer_features"], days, money_as_float=True),
        forecasts_on(run, days, ["churn_probability"]),
        arm,
        campaign.control_arm,
    )
    learned = learn_from(trial, seed=run.platform.settings.seed)
    if isinstance(learned, str):
        return _Lesson(None, learned)
    tags = {**run_tags(run.platform, run.run_id), "config_sha256": campaign.config_sha256}
    uplift = run.platform.models.register_uplift(campaign.id, arm, learned, last, tags)
    counts = {"customers": len(trial.units), "without_features": trial.left_out}
    return _Lesson(uplift, counts=counts)
