"""Power first: may a campaign start, judged by what its customers did over an earlier window?

What belongs here: the verdict on one campaign file, from the shop's own history, before anybody is
assigned. What does not: formulas (ml/experiments/power.py), the rows of a plan (planning.py), where
the history lies.

The history is the campaign itself, drawn on an earlier day under its own rules, and what these
customers did over a window as long as the campaign's while nobody treated them. So the spread is
that of the audience, and what the covariate removes is what it removed there: a prediction of that
day counts, one that was made with knowledge of the window does not.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date
from typing import Literal

import pandas as pd

from ml.campaigns.definition import Campaign
from ml.campaigns.plan import SETTLED, plan_of, read_from
from ml.campaigns.planning import COLUMNS, plan_power

Power = Literal["ok", "underpowered", "unknown"]


@dataclass(frozen=True)
class Past:
    """An earlier window: who would have been assigned, what they did, what was predicted of them.

    ledger: as of the first day (`cohorts.build_cohort`); outcomes: `outcomes.unit_outcomes`;
    scores: churn_scores of that day, without rows where they were no forecast; newcomers: how many
    would have been assigned on the day after, for a campaign of several waves; is_hindsight: the
    audience, or the limit, was chosen by scores that were no forecast.
    """

    ledger: pd.DataFrame
    outcomes: pd.DataFrame
    scores: pd.DataFrame
    newcomers: int = 0
    is_hindsight: bool = False


@dataclass(frozen=True)
class Launch:
    """Whether a campaign may start, and what it could find. `table` has planning.COLUMNS."""

    power: Power
    is_refused: bool
    reason: str
    table: pd.DataFrame

    def markdown(self) -> str:
        """The plan as a table for people."""
        head = ["arm", "metric", "customers", "control", "finds", "asked for", "prediction removes"]
        head += ["power", "days", "cost", "wrong sign", "wrong decision", "verdict"]
        lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
        for row in self.table.to_dict("records"):
            cost = "" if pd.isna(row["cost_amount"]) else f"{row['cost_amount']:,.2f}"
            cells = [
                row["arm"],
                row["metric"],
                f"{row['customer_count_arm']:,}",
                f"{row['customer_count_control']:,}",
                f"{row['minimum_detectable_effect']:.4g}",
                f"{row['minimum_effect']:.4g}",
                f"{row['variance_reduction']:.0%}",
                f"{row['power']:.0%}",
                f"{row['duration_days']}",
                cost,
                f"{row['chance_of_wrong_sign']:.2%}",
                f"{row['chance_of_wrong_decision']:.0%}",
                row["status"],
            ]
            lines.append("| " + " | ".join(cells) + " |")
        return "\n".join(lines)


def history_days(campaign: Campaign) -> int:
    """Days from assignment until what power is planned for is final."""
    outcome = campaign.outcome
    planned = {*outcome.minimum_effects, *(guardrail.metric for guardrail in outcome.guardrails)}
    return outcome.window_days + (outcome.return_lag_days if planned & SETTLED else 0)


def judge(campaign: Campaign, customers: int, past: Past | str, day: date | None = None) -> Launch:
    """Judge the launch, at the end of `day`, of a campaign that would assign so many on it.

    past: or the reason why there is none. day: by default the first day of the file; one that was
    refused before has only the days left. A campaign of several waves counts the customers that it
    declares, but no more than its first day brings, which is the standing stock, and, on each
    further day, as many newcomers as there were. A bandit is judged with its control at the floor,
    where results may take it. Every arm must be able to find the smallest effect worth having of
    each goal; guardrails are shown and refuse nothing.
    """
    if isinstance(past, str):
        return _decided(campaign, "unknown", past, pd.DataFrame(columns=COLUMNS))
    _, outcomes, usable = read_from(past.ledger, past.outcomes, past.scores)
    if day is not None and campaign.start_date < day <= campaign.last_assignment_date:
        campaign = campaign.model_copy(update={"start_date": day})
    days = (campaign.last_assignment_date - campaign.start_date).days + 1
    planned = campaign.outcome.planned_customers or customers
    likely = customers + (days - 1) * past.newcomers
    plan = plan_of(campaign, usable)
    try:
        table = plan_power(
            replace(plan, weights=_least_control(campaign)),
            outcomes,
            min(planned, likely) if days > 1 else customers,
            cost_per_customer={arm: float(campaign.planned_cost(arm)) for arm in campaign.weights},
            accept_underpowered=campaign.if_underpowered == "mark",
        )
    except ValueError as error:
        return _decided(campaign, "unknown", str(error), pd.DataFrame(columns=COLUMNS))
    short = table[table["role"].eq("goal") & table["status"].ne("ok")]
    goals = table[table["role"].eq("goal")]
    reason = "; ".join(f"{row.arm}: {row.reason}" for row in goals.itertuples())
    if not usable:
        reason += "; no forecast of that time is published, so no prediction is counted on"
    if past.is_hindsight:
        reason += (
            "; the customers of the history were chosen by scores that knew its window, so they "
            "differ from those whom a forecast chooses: in rate, and so in spread"
        )
    return _decided(campaign, "underpowered" if len(short) else "ok", reason, table)


def _least_control(campaign: Campaign) -> dict[str, float]:
    """The weights of the file; of a bandit with the control at the floor, the rest in proportion.

    Results may take a control that loses there, and every arm is compared with it.
    """
    own = campaign.weights
    if campaign.bandit is None:
        return dict(own)
    control = min(own[campaign.control_arm], campaign.bandit.floor)
    scale = (1 - control) / (1 - own[campaign.control_arm])
    return {a: control if a == campaign.control_arm else w * scale for a, w in own.items()}


def _decided(campaign: Campaign, power: Power, reason: str, table: pd.DataFrame) -> Launch:
    refused = power != "ok" and campaign.if_underpowered == "refuse"
    if refused:
        reason += (
            ". It does not start; to start it nevertheless, marked in all its results, say "
            "`if_underpowered: mark` and a `start_date` to come in its file: a day that has been "
            "drawn is closed"
        )
    return Launch(power, refused, reason, table)
