"""What a campaign earned: one table of readings per arm, metric and look, with a verdict in words.

What belongs here: the analysis plan, the choice of estimator, the gates, incremental profit. What
does not: formulas (ml/experiments), what became of a customer (outcomes.py), who was assigned (the
ledger).

The analysis is fixed by the plan before anybody is assigned. Everybody who was assigned counts in
the arm that was drawn. The absolute difference decides; the relative lift is an interval only
(log-delta). Profit per assigned customer decides about an arm, after shrinkage; it is never
winsorised.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.campaigns.integrity import (
    Exposure,
    differs,
    exposure_on,
    multiple_exposures,
    poststratified_mean,
)
from ml.campaigns.stages import STAGES, Drawn, check_stages
from ml.experiments.moments import Codes, Moments
from ml.experiments.multiplicity import adjusted_p_values, non_inferiority
from ml.experiments.power import minimum_detectable_effect
from ml.experiments.sequential import (
    Spending,
    boundaries,
    confidence_sequence,
    stagewise_p_value,
)
from ml.experiments.shrinkage import (
    STATED_PRIOR,
    NormalPrior,
    PooledEffect,
    pool,
    posterior,
    prior_from_past,
)
from ml.experiments.srm import StageCheck
from ml.experiments.two_sample import (
    Effect,
    PairedSample,
    cuped_theta,
    pooled_cap,
    poststratified,
    ratio_pair,
)

Array = npt.NDArray[np.float64]
Role = Literal["goal", "guardrail", "secondary"]
STATUSES = ("ok", "underpowered", "needs_review", "window_open", "invalid")
VALID = ("ok", "underpowered", "needs_review")
RELATIVE_METHOD = "log_delta"
# Twyman: a lift beyond it is more often a fault in the data than a success. Of what the campaign
# was asked for: others it may move by design, as a coupon does discounts.
SUSPICIOUS_LIFT = 0.5
LARGE_STRATUM = 0.1
# An effect that is gone without one day is that day's: a sale, an outage, orders brought forward.
# Of effects spread over weeks the best day has a quarter at most where they are barely significant.
CARRIED_BY_ONE_DAY = 0.75
MINIMUM_WINDOW = 7  # in a shorter window one day may well carry it
# A cell below it has no variance to speak of; its stratum is merged into the largest.
MINIMUM_CELL = 10
NOTHING_AGAINST = "nothing speaks against the figures"
LAUNCHED_UNDERPOWERED = "it was known to be underpowered when it started"
BALANCE_ALARM = 0.001

# name -> (type, meaning). What `campaign_results` publishes beside its snapshot_date; key:
# campaign_id, arm, metric, look. Doubles are null where they cannot be said.
SCHEMA: dict[str, tuple[str, str]] = {
    "campaign_id": ("string", "immutable id of the campaign"),
    "arm": ("string", "the arm compared with the control"),
    "metric": ("string", "what is measured, per assigned customer"),
    "look": (
        "integer",
        "number of the look, 0 before the first; the last planned one is the end",
    ),
    "look_date": ("date", "outcomes known at the end of this day are in"),
    "is_final": ("boolean", "all windows have closed"),
    "role": ("string", "goal, guardrail or secondary"),
    "control_arm": ("string", "the control"),
    "assigned_count_arm": ("integer", "customers assigned to the arm by the look"),
    "assigned_count_control": ("integer", "customers assigned to the control by the look"),
    "customer_count_arm": ("integer", "of those, with a closed window and an outcome"),
    "customer_count_control": ("integer", "the same of the control"),
    "mean_arm": ("double?", "mean of the metric (or ratio of means) in the arm, unadjusted"),
    "mean_control": ("double?", "the same of the control"),
    "method": (
        "string?",
        "[ipw_][ratio_] then welch, proportion, delta, poststratified, cuped or "
        "poststratified_cuped",
    ),
    "theta": ("double?", "CUPED's coefficient, one over all arms"),
    "variance_reduction": ("double?", "share of the squared standard error removed, measured"),
    "winsorised_at": ("double?", "cap of the pooled arms; effect and test are of capped values"),
    "effect": ("double?", "arm less control, in the metric's unit"),
    "effect_low": ("double?", "lower end of its interval, valid for the look"),
    "effect_high": ("double?", "upper end of its interval"),
    "standard_error": ("double?", "of the effect"),
    "p_value": ("double?", "two-sided; null before the end unless a boundary is crossed"),
    "p_value_adjusted": ("double?", "Holm over goals and arms; Benjamini-Hochberg over secondary"),
    "unadjusted_effect": ("double?", "Welch, without covariate and strata"),
    "unadjusted_standard_error": ("double?", "of that"),
    "relative_effect": ("double?", "effect over the control's mean"),
    "relative_low": ("double?", "lower end of its interval"),
    "relative_high": ("double?", "upper end of its interval"),
    "relative_method": ("string?", "log_delta"),
    "information_fraction": ("double?", "closed customers over planned ones"),
    "boundary_z": ("double?", "z beyond which this look rejects"),
    "z_statistic": ("double?", "normal quantile of the look's p-value, signed"),
    "is_boundary_crossed": ("boolean?", "at this look or before"),
    "minimum_effect": ("double?", "smallest effect worth having, from the plan"),
    "minimum_detectable_effect": ("double?", "found with 80 % power at the measured error"),
    "non_inferiority_margin": ("double?", "harm that a guardrail tolerates"),
    "guardrail_verdict": ("string?", "non_inferior, inferior, inconclusive"),
    "balance_p_value": ("double?", "the covariate before assignment, arm against control"),
    **{f"srm_p_{stage}": ("double?", f"sample ratio at the stage {stage!r}") for stage in STAGES},
    "incremental_total": ("double?", "effect on uncapped values times customers of the arm"),
    "incremental_low": ("double?", "lower end"),
    "incremental_high": ("double?", "upper end"),
    "prior_mean": ("double?", "of the effect, in the metric's unit"),
    "prior_sd": ("double?", "of the effect"),
    "prior_source": ("string?", "stated, or empirical_bayes above ten past campaigns"),
    "shrunken_effect": ("double?", "posterior mean of the effect on uncapped values"),
    "shrunken_low": ("double?", "lower end of its interval"),
    "shrunken_high": ("double?", "upper end"),
    "chance_to_win": ("double?", "posterior probability of an effect for the better"),
    "cost_effect": ("double?", "what the arm spends more per customer: contacts and discounts"),
    "cost_effect_low": ("double?", "lower end of its interval"),
    "cost_effect_high": ("double?", "upper end"),
    "relative_effect_before_cost": ("double?", "gain before cost over the control's mean"),
    "relative_error_before_cost": ("double?", "its standard error; what later priors learn from"),
    "roi": ("double?", "incremental profit per unit of incremental cost"),
    "roi_low": ("double?", "lower end (Fieller)"),
    "roi_high": ("double?", "upper end"),
    "shrunken_roi": ("double?", "the same of the shrunken profit"),
    "shrunken_roi_low": ("double?", "lower end"),
    "shrunken_roi_high": ("double?", "upper end"),
    "given_to_would_be_buyers": ("double?", "discounts to those who would have bought anyway"),
    "assumed_margin_rate": ("double?", "share of the arms' margin that rests on a declared rate"),
    "decision": ("string?", "roll_out, stop or keep_testing; only for the metric that decides"),
    "status": ("string", "ok, underpowered, needs_review, window_open, invalid"),
    "reason": ("string", "why, in words"),
}
COLUMNS = list(SCHEMA)


@dataclass(frozen=True)
class MetricPlan:
    """One metric: where its values are, and how it will be judged.

    value: column of the outcomes (by default the name). per: column of a ratio's denominator.
    covariate: column known before assignment, the model's prediction as a rule; covariate_per: its
    denominator, for a ratio. winsorise: quantile of the pooled arms at which values are capped.
    settle_days: days after the window until the value is final (returns). Absolute effects and
    margins are in the metric's unit.
    """

    name: str
    role: Role
    value: str = ""
    per: str | None = None
    is_proportion: bool = False
    covariate: str | None = None
    covariate_per: str | None = None
    higher_is_better: bool = True
    minimum_effect: float | None = None
    non_inferiority_margin: float | None = None
    winsorise: float | None = None
    settle_days: int = 0

    def __post_init__(self) -> None:
        if self.role == "guardrail" and not (self.non_inferiority_margin or 0) > 0:
            raise ValueError(f"guardrail {self.name}: declare the harm that it tolerates (> 0)")
        if self.winsorise is not None and (self.per or self.is_proportion):
            raise ValueError(f"{self.name}: only means are winsorised")
        if self.winsorise is not None and not 0.5 < self.winsorise < 1:
            raise ValueError(f"{self.name}: winsorise at a quantile between 0.5 and 1")
        if self.covariate_per and not (self.per and self.covariate):
            raise ValueError(f"{self.name}: covariate_per needs per and covariate")

    @property
    def column(self) -> str:
        """The column of the outcomes."""
        return self.value or self.name


@dataclass(frozen=True)
class AnalysisPlan:
    """How a campaign will be read, fixed before it starts.

    weights: per arm, in the order of the file. looks: days of interim readings, before the end, of
    the goal that is final last (`looks_of` has those of each metric); spending: how they share the
    error. monitoring open_ended: every day may be read, by a
    confidence sequence that is tightest at planned_customers. decides: the metric of profit per
    customer; cost: the column of what the campaign spent per customer. stratum: column frozen at
    assignment. contacted: arms whose messages go out alike, compared at "sent" and "delivered".
    baseline: the arm without a discount, per arm with one. prior: on the
    relative lift. launch_power: what was known before the start (launch.py); what was underpowered
    then stays so. is_adaptive: weights followed results, so customers count 1 / propensity.
    """

    campaign_id: str
    control_arm: str
    weights: Mapping[str, float]
    metrics: tuple[MetricPlan, ...]
    start_date: date
    last_assignment_date: date
    window_days: int
    looks: tuple[date, ...] = ()
    spending: Spending = "obrien_fleming"
    monitoring: Literal["planned", "open_ended"] = "planned"
    planned_customers: int | None = None
    decides: str = "profit_amount"
    cost: str = "cost_amount"
    stratum: str | None = None
    contacted: tuple[str, ...] = ()
    baseline: Mapping[str, str] = field(default_factory=dict)
    prior: NormalPrior = STATED_PRIOR
    launch_power: str | None = None
    is_adaptive: bool = False
    alpha: float = 0.05
    power: float = 0.8

    def __post_init__(self) -> None:
        name = f"campaign {self.campaign_id}"
        if self.control_arm not in self.weights or len(self.weights) < 2:
            raise ValueError(f"{name}: {self.control_arm!r} is not an arm of {list(self.weights)}")
        names = [metric.name for metric in self.metrics]
        if len(set(names)) != len(names):
            raise ValueError(f"{name}: two metrics share a name in {names}")
        for metric in self.metrics:
            if metric.name == self.decides and (metric.winsorise or metric.per):
                raise ValueError(f"{name}: {metric.name} decides; it is a mean, never winsorised")
        if list(self.looks) != sorted(set(self.looks)):
            raise ValueError(f"{name}: looks must be different days in order")
        if self.monitoring == "open_ended":
            if self.looks or not self.planned_customers:
                raise ValueError(
                    f"{name}: open-ended monitoring has no planned looks, and needs "
                    "planned_customers, where its intervals are tightest"
                )
            return
        if not self.looks:
            return
        if self.start_date == self.last_assignment_date:
            raise ValueError(
                f"{name}: all customers are assigned on {self.start_date}, so all windows close at "
                "once and an interim look would see nobody; leave the looks out"
            )
        first = self.start_date + timedelta(days=self.closing_days)
        end = self.last_assignment_date + timedelta(days=self.closing_days)
        if self.looks[0] < first or self.looks[-1] >= end:
            raise ValueError(
                f"{name}: looks lie on or after {first}, when the goals of the first customers are "
                f"final, and before the end on {end}"
            )
        earliest = min(self.looks_of(metric)[0] for metric in self.metrics)
        if earliest < self.last_assignment_date and not self.planned_customers:
            raise ValueError(f"{name}: looks before enrolment ends need planned_customers")

    @property
    def treated(self) -> list[str]:
        """The arms that are compared with the control."""
        return [arm for arm in self.weights if arm != self.control_arm]

    @property
    def closing_days(self) -> int:
        """Days from assignment until all goals of a customer are final; what looks count."""
        settle = [metric.settle_days for metric in self.metrics if metric.role == "goal"]
        return self.window_days + max(settle, default=0)

    def end_date(self, metric: MetricPlan) -> date:
        """The day at whose end the metric is final for everybody."""
        return self.last_assignment_date + timedelta(days=self.window_days + metric.settle_days)

    def looks_of(self, metric: MetricPlan) -> tuple[date, ...]:
        """Days of the metric's interim looks: each waits as long for its values as its end does.

        So a look is at the same share of the customers for all metrics, whenever they are final,
        and each has as many looks as power was planned for.
        """
        shift = timedelta(days=self.window_days + metric.settle_days - self.closing_days)
        return tuple(look + shift for look in self.looks)

    def error_of(self, metric: MetricPlan) -> float:
        """Two-sided error of one comparison at a planned look: goals share alpha equally."""
        if metric.role != "goal":
            return self.alpha
        goals = sum(other.role == "goal" for other in self.metrics)
        return self.alpha / (goals * len(self.treated))


def read_out(
    plan: AnalysisPlan,
    ledger: pd.DataFrame,
    outcomes: pd.DataFrame,
    as_of: date,
    *,
    eligible: pd.DataFrame | None = None,
    past: pd.DataFrame | None = None,
    others: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return `COLUMNS`: one row per treated arm, metric and look that lies on or before `as_of`.

    ledger: rows of the campaign: customer_key, arm, assigned_date; where they exist weights_json
    (the weights in force), the stratum, and covariates_date (the day the covariates are of).
    outcomes: one row per customer: customer_key, the metrics' columns, covariates, and where
    messages are known is_sent and is_delivered (`outcomes.unit_outcomes` with the covariates
    joined). A customer of the ledger without a row in it has gone missing and is counted. eligible:
    `cohorts.eligible_units`, who passed every rule. past: `past_effects` of earlier campaigns, for
    the prior. others: the ledger of all campaigns, for customers whom two of one layer share
    (`integrity.multiple_exposures`).

    A metric with no closed look has one row per arm with status window_open and no figures. Fixed-
    horizon p-values are null before the end. Raises ValueError where a customer stands twice, an
    arm is unknown, covariates are younger than the assignment, or values are missing.
    """
    data = _Data.of(plan, ledger, outcomes, others, eligible)
    if not len(data.arm):
        return _table([])
    rows: list[dict[str, Any]] = []
    for metric in plan.metrics:
        looks = _looks(plan, data, metric, as_of)
        crossed: dict[str, tuple[int, float]] = {}
        for look in looks:
            stages = _stages(plan, data, metric, look.day)
            rows += _read_metric(plan, data, metric, look, stages, crossed, past)
        if not looks:
            rows += _nothing_yet(plan, data, metric, as_of)
    _adjust_for_multiplicity(plan, rows)
    _hold_decisions(plan, rows)
    return _table(rows)


def past_effects(results: Iterable[pd.DataFrame], decides: str = "profit_amount") -> pd.DataFrame:
    """Relative gains before cost of finished campaigns, one row per campaign and arm.

    All readings that are valid count, whatever they say: a prior of winners would not shrink.
    """
    kept = []
    for frame in results:
        valid = frame["is_final"] & frame["metric"].eq(decides)
        valid &= frame["status"].isin(VALID)
        valid &= frame["relative_error_before_cost"].gt(0)
        kept.append(
            frame.loc[
                valid,
                ["campaign_id", "arm", "relative_effect_before_cost", "relative_error_before_cost"],
            ]
        )
    columns = ["campaign_id", "arm", "relative_effect", "standard_error"]
    if not kept:
        return pd.DataFrame(columns=columns)
    return pd.concat(kept, ignore_index=True).set_axis(columns, axis=1)


def pooled_effect(
    results: Iterable[pd.DataFrame], metric: str, *, relative: bool = False
) -> PooledEffect:
    """What several small campaigns, or quarters of the global holdout, say together of a metric.

    results: one frame per campaign, with one arm each (two share a control and are not
    independent); a quarter of the holdout is a campaign whose control is the held-out share.
    relative: pool gains before cost over the control's mean, for campaigns of unlike customers.
    Counted are final readings that are valid, the underpowered above all.
    """
    found: dict[str, tuple[float, float]] = {}
    names = ("effect", "standard_error")
    if relative:
        names = ("relative_effect_before_cost", "relative_error_before_cost")
    for frame in results:
        valid = frame["is_final"] & frame["metric"].eq(metric)
        valid &= frame["status"].isin(VALID) & frame[names[1]].gt(0)
        for row in frame[valid].to_dict("records"):
            if row["campaign_id"] in found:
                raise ValueError(
                    f"campaign {row['campaign_id']}: two readings of {metric}; pool one arm, once"
                )
            found[row["campaign_id"]] = (float(row[names[0]]), float(row[names[1]]))
    if not found:
        raise ValueError(f"no campaign has a final, valid reading of {metric}")
    return pool([effect for effect, _ in found.values()], [error for _, error in found.values()])


@dataclass(frozen=True)
class _Look:
    """One reading: what has closed by `day`, and how strict it must be."""

    number: int
    day: date
    is_final: bool
    closed: npt.NDArray[np.bool_]
    fractions: tuple[float, ...] = ()
    information: tuple[float, ...] = ()
    bounds: tuple[float, ...] = ()

    @property
    def is_planned(self) -> bool:
        """Whether it is one of several looks that share the error."""
        return len(self.fractions) > 0

    def confidence(self, alpha: float) -> float:
        """Of the interval that holds at this look: repeated, or of a fixed horizon."""
        return 1 - 2 * _normal_tail(self.bounds[-1]) if self.is_planned else 1 - alpha


@dataclass
class _Data:
    """The ledger beside its outcomes, as arrays with one place per assigned customer."""

    drawn: Drawn
    eligible: Drawn | None
    stratum: Codes
    strata: list[str]
    is_measured: npt.NDArray[np.bool_]
    frame: pd.DataFrame
    at: Codes
    exposures: pd.DataFrame
    weight: Array | None = None
    ordered: npt.NDArray[np.datetime64] | None = None
    spikes: dict[tuple[str, date, int], str | None] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        plan: AnalysisPlan,
        ledger: pd.DataFrame,
        outcomes: pd.DataFrame,
        others: pd.DataFrame | None = None,
        eligible: pd.DataFrame | None = None,
    ) -> _Data:
        name = f"campaign {plan.campaign_id}"
        if not ledger["customer_key"].is_monotonic_increasing:
            ledger = ledger.sort_values("customer_key")
        units, rows = pd.Index(ledger["customer_key"]), pd.Index(outcomes["customer_key"])
        if not units.is_unique:
            raise ValueError(f"{name}: a customer is assigned twice in the ledger")
        if not rows.is_unique:
            raise ValueError(f"{name}: a customer has two rows of outcomes")
        drawn = Drawn.of(ledger, plan.weights)
        if "covariates_date" in ledger:
            known = pd.to_datetime(ledger["covariates_date"]).to_numpy().astype("datetime64[D]")
            if late := int((known > drawn.assigned).sum()):
                raise ValueError(
                    f"{name}: the covariates of {late} customers are younger than their assignment"
                )
        stratum, strata = np.zeros(len(ledger), dtype=np.int64), [""]
        if plan.stratum is not None:
            codes, values = pd.factorize(ledger[plan.stratum], sort=True, use_na_sentinel=False)
            stratum, strata = codes.astype(np.int64), [str(value) for value in values]
        phases = len(drawn.weights)
        if phases > 1:  # weights changed: what differs between phases must not count as effect
            strata = [f"{s} phase {p + 1}".strip() for s in strata for p in range(phases)]
            stratum = stratum * phases + drawn.phase
        aligned = len(units) == len(rows) and bool(units.equals(rows))
        at = np.arange(len(units)) if aligned else rows.get_indexer(units)
        weight = None
        if plan.is_adaptive:  # by weight, and not by stratum: a cell of one segment and day is tiny
            weight = 1 / ledger["propensity"].to_numpy(dtype=np.float64)
            stratum, strata = np.zeros(len(ledger), dtype=np.int64), [""]
        ordered = None
        if "first_order_date" in outcomes:
            days = pd.to_datetime(outcomes["first_order_date"])
            ordered = days.to_numpy().astype("datetime64[D]")
        exposures = multiple_exposures(
            ledger,
            outcomes,
            campaign_id=plan.campaign_id,
            control_arm=plan.control_arm,
            window_days=plan.window_days,
            others=others,
        )
        return cls(
            drawn,
            None if eligible is None else Drawn.of(eligible, plan.weights),
            stratum,
            strata,
            at >= 0,
            outcomes,
            at,
            exposures,
            weight,
            ordered,
        )

    @property
    def arms(self) -> list[str]:
        """The arms, in the order of the plan."""
        return self.drawn.arms

    @property
    def arm(self) -> Codes:
        """The arm of each customer, as a place in `arms`."""
        return self.drawn.arm

    @property
    def assigned(self) -> npt.NDArray[np.datetime64]:
        """The day on which each was drawn."""
        return self.drawn.assigned

    def column(self, name: str, mask: npt.NDArray[np.bool_]) -> Array:
        """Values of the customers in `mask` (all of them measured)."""
        if name not in self.frame:
            raise ValueError(f"the outcomes have no column {name!r}")
        values = self.frame[name].to_numpy(dtype=np.float64, na_value=np.nan)
        taken = values[self.at[mask]]
        if bad := int((~np.isfinite(taken)).sum()):
            raise ValueError(f"{name}: {bad} of {len(taken)} values are missing or infinite")
        return taken

    def weighted(self, columns: list[Array], mask: npt.NDArray[np.bool_]) -> list[Array]:
        """The columns, so that an arm's mean is that with weights of 1 / propensity (Hajek).

        m + w / mean(w) * (y - m): its mean is m and its variance the delta method's, so everything
        that rests on means and covariances holds unchanged.
        """
        if self.weight is None:
            return columns
        w, arm, count = self.weight[mask], self.arm[mask], len(self.arms)
        total = np.maximum(np.bincount(arm, weights=w, minlength=count), 1.0)
        scale = w * (np.bincount(arm, minlength=count) / total)[arm]
        found = []
        for y in columns:
            m = (np.bincount(arm, weights=w * y, minlength=count) / total)[arm]
            found.append(m + scale * (y - m))
        return found

    def first_orders(self, mask: npt.NDArray[np.bool_]) -> dict[str, Codes]:
        """Day of the first order of each customer in `mask`, -1 for none: two ways to count days.

        Days after the assignment, which are of 1 or more; days of the calendar after the first one.
        """
        assert self.ordered is not None
        ordered, assigned = self.ordered[self.at[mask]], self.assigned[mask]
        none = np.isnat(ordered)
        start = assigned.min() if len(assigned) else np.datetime64("1970-01-01")
        found = {}
        for name, origin in (("day {} after the assignment", assigned), ("{}", start)):
            days = (ordered - origin).astype("int64")
            found[name] = np.where(none, -1, days)
        return found

    def exposure(self, day: date) -> Exposure | None:
        """Who had more than one treatment, as known at the end of `day`."""
        until = np.datetime64(day)
        return exposure_on(self.exposures, until, int((self.assigned <= until).sum()))

    def closed(self, plan: AnalysisPlan, metric: MetricPlan, day: date) -> npt.NDArray[np.bool_]:
        """Whose value of the metric is final at the end of `day`."""
        days = np.timedelta64(plan.window_days + metric.settle_days, "D")
        return np.asarray(self.assigned + days <= np.datetime64(day))


def _looks(plan: AnalysisPlan, data: _Data, metric: MetricPlan, as_of: date) -> list[_Look]:
    """The readings of a metric that lie on or before `as_of`."""
    end = plan.end_date(metric)
    if plan.monitoring == "open_ended":
        closed = data.closed(plan, metric, as_of) & data.is_measured
        is_final = as_of >= end
        day = min(as_of, end)
        return [_Look(1, day, is_final, closed)] if closed.any() else []
    found: list[_Look] = []
    fractions: list[float] = []
    information: list[float] = []
    for number, day in enumerate((*plan.looks_of(metric), end), 1):
        if day > as_of:
            break
        is_final = day == end
        closed = data.closed(plan, metric, day)
        count = int(closed.sum())
        if not is_final and not count:
            continue
        if plan.looks:
            # Known once enrolment has ended, planned before: so a look never changes afterwards.
            all_in = day >= plan.last_assignment_date
            planned = len(data.arm) if all_in else int(plan.planned_customers or 0)
            fraction = 1.0 if is_final else min(count / planned, 0.999)
            if fractions and (fraction <= fractions[-1] or count <= information[-1]):
                continue  # nothing has closed since the last look
            fractions.append(fraction)
            information.append(float(count))
        found.append(_Look(number, day, is_final, closed & data.is_measured))
    if not plan.looks or not fractions:
        return found
    # A bound rests on the looks up to its own, so one pass serves them all.
    bounds = boundaries(fractions, plan.error_of(metric), plan.spending, information=information)
    return [
        replace(
            look,
            fractions=tuple(fractions[: i + 1]),
            information=tuple(information[: i + 1]),
            bounds=tuple(bounds[: i + 1]),
        )
        for i, look in enumerate(found)
    ]


def _stages(
    plan: AnalysisPlan, data: _Data, metric: MetricPlan, day: date
) -> dict[str, StageCheck]:
    """The sample ratio at every stage, of the customers assigned by `day`."""
    reached = []
    for stage, flag in (("sent", "is_sent"), ("delivered", "is_delivered")):
        if flag not in data.frame or data.frame[flag].isna().all():
            continue
        values = data.frame[flag].to_numpy(dtype=bool, na_value=False)
        mask = data.is_measured.copy()
        mask[mask] = values[data.at[mask]]
        reached.append((stage, mask))
    return check_stages(
        data.drawn,
        np.datetime64(day),
        reached=reached,
        is_measured=data.is_measured,
        is_closed=data.closed(plan, metric, day),
        contacted=plan.contacted or tuple(plan.treated),
        eligible=data.eligible,
    )


@dataclass(frozen=True)
class _Estimate:
    """One comparison by the planned method, and by none."""

    effect: Effect
    plain: Effect
    raw: Effect
    method: str
    theta: float | None
    mean_arm: float
    mean_control: float
    flipped: str | None
    not_recombined: str | None


@dataclass(frozen=True)
class _Cells:
    """The moments of a metric, ready for every comparison of its arms."""

    metric: MetricPlan
    moments: Moments
    by_arm: Moments
    arms: list[str]
    strata: list[str]
    cap: float | None
    # Per customer, for the check that the strata make the total.
    columns: list[Array]
    arm: Codes
    stratum: Codes

    def pairs(self, arm: str, *, raw: bool = False, alone: bool = False) -> list[PairedSample]:
        """Moments of an arm per stratum; `raw` without winsorising.

        A ratio is linearised at the arm's post-stratified means, so that the strata make the arm's
        ratio; `alone` at each stratum's own, so that each is the ratio of the stratum.
        """
        a, count = self.arms.index(arm), len(self.arms)
        cells = [s * count + a for s in range(len(self.strata))]
        about = None
        if self.metric.per and not alone:
            about = self.shares() @ np.array([self.moments.mean(cell) for cell in cells])
        return [self._pair(self.moments, cell, raw, about) for cell in cells]

    def whole(self, arm: str, *, raw: bool = False) -> PairedSample:
        """Moments of an arm, strata together."""
        return self._pair(self.by_arm, self.arms.index(arm), raw)

    def theta(self, *, raw: bool = False) -> float:
        """CUPED's coefficient, one over all arms."""
        if self.metric.covariate is None:
            return 0.0
        kept = [arm for arm in self.arms if self.by_arm.n[self.arms.index(arm)] > 1]
        return cuped_theta([self.whole(arm, raw=raw) for arm in kept]) if kept else 0.0

    def shares(self) -> Array:
        """Share of each stratum among all customers."""
        n = self.moments.n.reshape(len(self.strata), len(self.arms)).sum(axis=1)
        return n / max(int(n.sum()), 1)

    def _pair(
        self, moments: Moments, cell: int, raw: bool, about: Array | None = None
    ) -> PairedSample:
        metric = self.metric
        if metric.per:
            n, mean, covariance = int(moments.n[cell]), moments.mean(cell), moments.covariance(cell)
            return ratio_pair(n, mean, covariance, about=about)
        pair = moments.pair(cell, -1 if raw else 0, 1 if metric.covariate else None)
        if metric.is_proportion and not metric.covariate and pair.n > 1:
            bernoulli = pair.mean_y * (1 - pair.mean_y)
            return PairedSample(pair.n, pair.mean_y, 0.0, bernoulli, 0.0, 0.0)
        return pair


def _cells(data: _Data, metric: MetricPlan, mask: npt.NDArray[np.bool_]) -> _Cells:
    """Moments per stratum and arm; strata too small for a variance are part of the largest."""
    count = len(data.arms)
    y = data.column(metric.column, mask)
    cap = None
    columns = [y]
    if metric.winsorise is not None:
        cap = pooled_cap(y, metric.winsorise)
        columns = [np.minimum(y, cap)]
    if metric.is_proportion and not np.isin(y, (0.0, 1.0)).all():
        raise ValueError(f"{metric.name} is declared a proportion, and has values beside 0 and 1")
    if metric.per:
        columns.append(data.column(metric.per, mask))
    columns += [
        data.column(name, mask) for name in (metric.covariate, metric.covariate_per) if name
    ]
    if cap is not None:
        columns.append(y)
    if data.weight is not None:
        columns, metric = data.weighted(columns, mask), replace(metric, is_proportion=False)
    arm, stratum = data.arm[mask], data.stratum[mask]
    strata = data.strata
    moments = Moments.of(columns, stratum * count + arm, len(strata) * count)
    arm_of_cell = np.tile(np.arange(count), len(strata))
    by_arm = moments.merged(arm_of_cell, count)
    raw_variance = np.array([moments.covariance(c)[0, 0] for c in range(len(moments.n))])
    fits = (moments.n >= MINIMUM_CELL) & ~(raw_variance <= 0)
    whole = fits.reshape(len(strata), count).all(axis=1)
    if len(strata) > 1 and not whole.all():
        sizes = moments.n.reshape(len(strata), count).sum(axis=1)
        kept = np.flatnonzero(whole)
        if not len(kept):
            kept = np.array([int(sizes.argmax())])
        into = np.searchsorted(kept, np.arange(len(strata)))
        largest = int(sizes[kept].argmax())
        into = np.where(np.isin(np.arange(len(strata)), kept), into, largest)
        moments = moments.merged(np.repeat(into, count) * count + arm_of_cell, len(kept) * count)
        strata = [strata[i] for i in kept]
        stratum = into[stratum]
    tested = columns if cap is None else columns[:-1]
    return _Cells(metric, moments, by_arm, data.arms, strata, cap, tested, arm, stratum)


def _estimate(plan: AnalysisPlan, cells: _Cells, arm: str, confidence: float) -> _Estimate:
    """The planned estimator: post-stratified where there are strata, CUPED where a covariate is."""
    control, treatment = cells.whole(plan.control_arm), cells.whole(arm)
    plain = poststratified([control], [treatment], theta=0.0, confidence=confidence)
    theta = cells.theta()
    several = len(cells.strata) > 1
    used = ["poststratified"] * several + ["cuped"] * (theta != 0)
    if cells.metric.per:
        used = ["ratio", *(used or ["delta"])]
    plainly = "proportion" if cells.metric.is_proportion else "welch"
    method = "_".join(["ipw"] * plan.is_adaptive + (used or [plainly]))
    shares = cells.shares() if several else np.ones(1)

    def by(raw: bool) -> Effect:
        return poststratified(
            cells.pairs(plan.control_arm, raw=raw),
            cells.pairs(arm, raw=raw),
            shares=list(shares),
            theta=cells.theta(raw=raw),
            confidence=confidence,
        )

    effect = by(raw=False)
    raw = by(raw=True) if cells.cap is not None else effect
    return _Estimate(
        effect,
        plain,
        raw,
        method,
        theta if cells.metric.covariate else None,
        treatment.mean_y,
        control.mean_y,
        _flipped(plan, cells, arm, effect, theta, shares) if several else None,
        _not_recombined(plan, cells, arm, effect, theta) if several else None,
    )


def _not_recombined(
    plan: AnalysisPlan, cells: _Cells, arm: str, effect: Effect, theta: float
) -> str | None:
    """Say so where the effects by stratum, from the customers up, do not make the effect."""
    if effect.effect is None:
        return None
    metric = cells.metric

    def adjusted(levels: Sequence[float], theta: float) -> float:
        """What is tested, of one level per column: of the metric less that of its covariate."""
        y, x, rest = levels[0], 0.0, list(levels[1:])
        if metric.per:
            y /= rest.pop(0)
        if metric.covariate:
            x = rest.pop(0)
        return y - theta * (x / rest.pop(0) if metric.covariate_per else x)

    def level(name: str) -> float:
        """The arm's, from the customers up."""
        own = cells.arm == cells.arms.index(name)
        return adjusted(
            [poststratified_mean(values, cells.stratum, own) for values in cells.columns], theta
        )

    scale = adjusted([float(np.abs(values).mean()) for values in cells.columns], -abs(theta))
    return differs(effect.effect, level(arm) - level(plan.control_arm), scale)


def _flipped(
    plan: AnalysisPlan,
    cells: _Cells,
    arm: str,
    effect: Effect,
    theta: float,
    shares: Array,
) -> str | None:
    """A large stratum whose own effect is surely of the other sign."""
    large = [i for i, share in enumerate(shares) if share >= LARGE_STRATUM]
    if effect.effect is None or not large:
        return None
    control, treatment = (cells.pairs(name, alone=True) for name in (plan.control_arm, arm))
    confidence = 1 - plan.alpha / len(large)
    for i in large:
        own = poststratified([control[i]], [treatment[i]], theta=theta, confidence=confidence)
        if own.low is None or own.high is None:
            continue
        if (effect.effect > 0 and own.high < 0) or (effect.effect < 0 and own.low > 0):
            return cells.strata[i]
    return None


def _carried_by_a_day(
    plan: AnalysisPlan, data: _Data, mask: npt.NDArray[np.bool_], arm: str
) -> str | None:
    """The one day without which the arm's effect on buyers would be gone, in words."""
    if plan.window_days < MINIMUM_WINDOW or data.ordered is None:
        return None
    weight = np.ones(int(mask.sum())) if data.weight is None else data.weight[mask]
    cells = [data.arms.index(name) for name in (arm, plan.control_arm)]
    own = [data.arm[mask] == cell for cell in cells]
    if not all(one.any() for one in own):
        return None
    for name, day in data.first_orders(mask).items():
        size, shares, counts = int(day.max(initial=0)) + 2, [], []
        for one in own:
            counts.append(float(weight[one].sum() ** 2 / (weight[one] @ weight[one])))
            shares.append(np.bincount(day[one] + 1, weight[one], size)[1:] / weight[one].sum())
        by_day = shares[0] - shares[1]
        total = float(by_day.sum())
        buyers = [float(share.sum()) for share in shares]

        def error(p: Sequence[float]) -> float:
            return math.sqrt(sum(q * (1 - q) / n for q, n in zip(p, counts, strict=True)))  # noqa: B023

        if abs(total) < _normal_quantile(plan.alpha / 2) * error(buyers) or not total:
            continue
        best = int((by_day * math.copysign(1, total)).argmax())
        share = float(by_day[best] / total)
        sure = _normal_quantile(plan.alpha / 2 / size)
        if share >= CARRIED_BY_ONE_DAY and abs(by_day[best]) > sure * error(
            [float(one[best]) for one in shares]
        ):
            start = data.assigned[mask].min()
            told = name.format(best if "after" in name else start + np.timedelta64(best, "D"))
            return f"{told} alone carries {share:.0%} of the effect on buyers"
    return None


def _read_metric(
    plan: AnalysisPlan,
    data: _Data,
    metric: MetricPlan,
    look: _Look,
    stages: Mapping[str, StageCheck],
    crossed: dict[str, tuple[int, float]],
    past: pd.DataFrame | None,
) -> list[dict[str, Any]]:
    """The rows of one metric at one look."""
    assigned = data.drawn.counts(data.drawn.on(np.datetime64(look.day)))
    closed = data.drawn.counts(look.closed)
    broken = [stages[stage] for stage in STAGES if stage in stages and stages[stage].is_broken]
    cells = _cells(data, metric, look.closed)
    rows = []
    for arm in plan.treated:
        row = _frame_of(plan, metric, look.number, look.day, look.is_final, arm)
        row["assigned_count_arm"] = assigned[arm]
        row["assigned_count_control"] = assigned[plan.control_arm]
        row["customer_count_arm"] = closed[arm]
        row["customer_count_control"] = closed[plan.control_arm]
        row |= {f"srm_p_{stage}": check.p_value for stage, check in stages.items()}
        if look.is_planned:
            row["information_fraction"] = look.fractions[-1]
            row["boundary_z"] = look.bounds[-1]
        if broken:  # no figure of arms that are not comparable is shown
            row["status"], row["reason"] = "invalid", _missing(broken[0])
            rows.append(row)
            continue
        estimate = _estimate(plan, cells, arm, look.confidence(plan.alpha))
        effect = _monitored(plan, metric, look, estimate.effect, closed, arm)
        row |= _figures(plan, metric, cells, estimate, effect)
        row["balance_p_value"] = _balance(plan, cells, arm)
        _decide_look(plan, look, row, effect, crossed, arm)
        raw = effect  # money is counted uncapped
        if cells.cap is not None:
            raw = _monitored(plan, metric, look, estimate.raw, closed, arm)
        if not metric.per:
            for end, value in (("total", raw.effect), ("low", raw.low), ("high", raw.high)):
                row[f"incremental_{end}"] = None if value is None else value * closed[arm]
        if metric.name == plan.decides:
            row |= _profit(plan, data, metric, look, arm, estimate, effect)
        if metric.name == plan.decides or metric.role == "goal":
            row |= _shrunken(plan, metric, row, estimate, past)
        key = (arm, look.day, metric.settle_days)  # all metrics are of the same orders
        if key not in data.spikes:
            data.spikes[key] = _carried_by_a_day(plan, data, look.closed, arm)
        exposure, spike = data.exposure(look.day), data.spikes[key]
        _judge(plan, metric, look, row, estimate, effect, crossed.get(arm), spike, exposure)
        rows.append(row)
    return rows


def _monitored(
    plan: AnalysisPlan,
    metric: MetricPlan,
    look: _Look,
    effect: Effect,
    closed: Mapping[str, int],
    arm: str,
) -> Effect:
    """The effect with the interval and p-value of the confidence sequence, if that is monitored."""
    if plan.monitoring != "open_ended" or effect.effect is None or not effect.standard_error:
        return effect
    low, high, p_value = confidence_sequence(
        effect.effect,
        effect.standard_error,
        closed[arm] + closed[plan.control_arm],
        int(plan.planned_customers or 1),
        plan.error_of(metric),
    )
    return replace(effect, low=low, high=high, p_value=p_value)


def _figures(
    plan: AnalysisPlan, metric: MetricPlan, cells: _Cells, estimate: _Estimate, effect: Effect
) -> dict[str, Any]:
    plain, se = estimate.plain, effect.standard_error
    reduction = None
    if se is not None and plain.standard_error:
        reduction = 1 - (se / plain.standard_error) ** 2
    return {
        "mean_arm": estimate.mean_arm,
        "mean_control": estimate.mean_control,
        "method": estimate.method,
        "theta": estimate.theta,
        "variance_reduction": reduction,
        "winsorised_at": cells.cap,
        "effect": effect.effect,
        "effect_low": effect.low,
        "effect_high": effect.high,
        "standard_error": se,
        "unadjusted_effect": plain.effect,
        "unadjusted_standard_error": plain.standard_error,
        "relative_effect": effect.relative_effect,
        "relative_low": effect.relative_low,
        "relative_high": effect.relative_high,
        "relative_method": RELATIVE_METHOD if effect.relative_low is not None else None,
        "minimum_detectable_effect": (
            minimum_detectable_effect(se, plan.alpha, plan.power) if se else None
        ),
    }


def _balance(plan: AnalysisPlan, cells: _Cells, arm: str) -> float | None:
    """p-value of the covariate, which the assignment cannot have moved."""
    if cells.metric.covariate is None:
        return None

    def turned(name: str) -> PairedSample:
        pair = cells.whole(name)
        return PairedSample(pair.n, pair.mean_x, 0.0, pair.variance_x, 0.0, 0.0)

    return poststratified([turned(plan.control_arm)], [turned(arm)], theta=0.0).p_value


def _decide_look(
    plan: AnalysisPlan,
    look: _Look,
    row: dict[str, Any],
    effect: Effect,
    crossed: dict[str, tuple[int, float]],
    arm: str,
) -> None:
    """Set p-value, z and whether a boundary has been crossed; remember the first crossing."""
    if plan.monitoring == "open_ended":
        row["p_value"] = effect.p_value
        return
    if not look.is_planned:
        row["p_value"] = effect.p_value if look.is_final else None
        return
    if effect.p_value is None or effect.effect is None:
        row["is_boundary_crossed"] = arm in crossed
        return
    z = math.copysign(_normal_quantile(effect.p_value / 2), effect.effect)
    row["z_statistic"] = z
    if arm not in crossed and (abs(z) >= look.bounds[-1] or look.is_final):
        p_value = stagewise_p_value(look.information, look.bounds[:-1], z)
        if abs(z) >= look.bounds[-1]:
            crossed[arm] = (look.number, p_value)
        row["p_value"] = p_value
    row["is_boundary_crossed"] = arm in crossed
    if arm in crossed:
        row["p_value"] = crossed[arm][1]


def _profit(
    plan: AnalysisPlan,
    data: _Data,
    metric: MetricPlan,
    look: _Look,
    arm: str,
    estimate: _Estimate,
    effect: Effect,
) -> dict[str, Any]:
    """What the arm costs more, what comes back per unit of it, and what it gave to the willing."""
    mask = look.closed
    columns = [data.column(metric.column, mask), data.column(plan.cost, mask)]
    if metric.covariate:
        columns.append(data.column(metric.covariate, mask))
    moments = Moments.of(data.weighted(columns, mask), data.arm[mask], len(data.arms))
    cells = [data.arms.index(name) for name in (plan.control_arm, arm)]
    means = [moments.mean(cell) for cell in cells]
    found: dict[str, Any] = {}
    cost = float(means[1][1] - means[0][1])
    found["cost_effect"] = cost
    if effect.effect is None or not effect.standard_error:
        return found
    # Variances of (profit, cost), the profit adjusted as it was for its own reading.
    adjust = np.array([1.0, 0.0, -(estimate.theta or 0.0)][: len(columns)])
    price = np.array([0.0, 1.0, 0.0][: len(columns)])
    both = vc = 0.0
    for cell in cells:
        c, n = moments.covariance(cell), int(moments.n[cell])
        both += float(adjust @ c @ price) / n
        vc += float(price @ c @ price) / n
    vp = effect.standard_error**2
    z = ((effect.high or 0.0) - (effect.low or 0.0)) / 2 / effect.standard_error
    half = z * math.sqrt(max(vc, 0.0))
    found["cost_effect_low"], found["cost_effect_high"] = cost - half, cost + half
    base = estimate.mean_control
    if base > 0:
        gain = (effect.effect + cost) / base
        variance = vp + vc + 2 * both
        control = moments.covariance(cells[0])
        on_base = float((adjust + price) @ control @ np.eye(len(columns))[0]) / moments.n[cells[0]]
        variance += gain**2 * control[0, 0] / moments.n[cells[0]] + 2 * gain * on_base
        found["relative_effect_before_cost"] = gain
        found["relative_error_before_cost"] = math.sqrt(max(float(variance), 0.0)) / base
    if cost > 0:
        bounds = fieller(effect.effect, cost, vp, vc, both, z)
        if bounds is not None:
            found["roi"] = effect.effect / cost
            found["roi_low"], found["roi_high"] = bounds
    found |= _given_away(plan, data, mask, arm)
    return found


def fieller(
    numerator: float,
    denominator: float,
    variance_n: float,
    variance_d: float,
    covariance: float,
    z: float,
) -> tuple[float, float] | None:
    """Interval of a ratio of two estimates (Fieller 1954); None where the denominator may be 0."""
    a = denominator**2 - z * z * variance_d
    if not a > 0:
        return None
    b = numerator * denominator - z * z * covariance
    c = numerator**2 - z * z * variance_n
    root = math.sqrt(max(b * b - a * c, 0.0))
    return (b - root) / a, (b + root) / a


def _given_away(
    plan: AnalysisPlan, data: _Data, mask: npt.NDArray[np.bool_], arm: str
) -> dict[str, Any]:
    """Discounts of the arm that went to customers who would have bought without.

    Redeemed discounts times the baseline's purchase rate over the arm's, which is right where the
    willing redeem as often as the persuaded: an estimate, without an interval.
    """
    names = ["retained", "discount_amount", "net_margin_amount", "assumed_margin_amount"]
    if not set(names) <= set(data.frame.columns):
        return {}
    columns = data.weighted([data.column(name, mask) for name in names], mask)
    moments = Moments.of(columns, data.arm[mask], len(data.arms))
    here = moments.mean(data.arms.index(arm))
    baseline = moments.mean(data.arms.index(plan.baseline.get(arm, plan.control_arm)))
    count = int(moments.n[data.arms.index(arm)])
    found: dict[str, Any] = {}
    if arm in plan.baseline and here[0] > 0:  # others give none: what is redeemed is the shop's own
        found["given_to_would_be_buyers"] = min(baseline[0] / here[0], 1.0) * here[1] * count
    compared = [data.arms.index(name) for name in (arm, plan.control_arm)]
    margin, assumed = (
        sum(float(moments.mean(c)[i]) * int(moments.n[c]) for c in compared) for i in (2, 3)
    )
    if margin > 0:
        found["assumed_margin_rate"] = min(max(assumed / margin, 0.0), 1.0)
    return found


def _shrunken(
    plan: AnalysisPlan,
    metric: MetricPlan,
    row: Mapping[str, Any],
    estimate: _Estimate,
    past: pd.DataFrame | None,
) -> dict[str, Any]:
    """The effect after what campaigns usually achieve has been heard.

    The prior is on the relative gain before cost; cost is known and is taken off its mean.
    """
    raw, base = estimate.raw, estimate.mean_control
    if raw.effect is None or not raw.standard_error or not base > 0:
        return {}
    prior = plan.prior
    if past is not None and metric.name == plan.decides:
        prior = prior_from_past(
            list(past["relative_effect"]), list(past["standard_error"]), plan.prior
        )
    cost = row.get("cost_effect") or 0.0
    sign = 1.0 if metric.higher_is_better else -1.0
    own = NormalPrior(sign * prior.mean * base - cost, prior.sd * base, prior.source)
    after = posterior(raw.effect, raw.standard_error, own, confidence=1 - plan.alpha)
    found: dict[str, Any] = {
        "prior_mean": own.mean,
        "prior_sd": own.sd,
        "prior_source": own.source,
        "shrunken_effect": after.mean,
        "shrunken_low": after.low,
        "shrunken_high": after.high,
        "chance_to_win": after.chance_to_win if sign > 0 else 1 - after.chance_to_win,
    }
    if row["roi"] is not None:  # else the cost may be nothing, and no ratio has an interval
        found["shrunken_roi"] = after.mean / cost
        found["shrunken_roi_low"], found["shrunken_roi_high"] = after.low / cost, after.high / cost
    return found


def _judge(
    plan: AnalysisPlan,
    metric: MetricPlan,
    look: _Look,
    row: dict[str, Any],
    estimate: _Estimate,
    effect: Effect,
    crossed: tuple[int, float] | None,
    spike: str | None,
    exposure: Exposure | None,
) -> None:
    """Set status, reason, the guardrail's verdict and the decision."""
    status, reasons = "ok", []

    def say(level: str, reason: str) -> None:
        nonlocal status
        reasons.append(reason)
        row["is_suspect"] |= level == "needs_review"  # which the status of an open look would hide
        if STATUSES.index(level) > STATUSES.index(status):
            status = level

    if metric.non_inferiority_margin is not None:
        row["guardrail_verdict"] = non_inferiority(
            effect, metric.non_inferiority_margin, higher_is_better=metric.higher_is_better
        )
    lift, smallest = effect.relative_effect, row["minimum_detectable_effect"]
    if effect.status != "ok":
        what = "too few customers" if effect.status == "too_few_units" else "no variance"
        say("underpowered", f"{what}: there is nothing to test with")
    wanted = metric.minimum_effect or metric.non_inferiority_margin
    is_found = crossed is not None or (
        plan.monitoring == "open_ended" and (effect.p_value or 1.0) < plan.error_of(metric)
    )
    too_small = wanted is not None and smallest is not None and smallest > wanted
    is_settled = row["guardrail_verdict"] in ("non_inferior", "inferior")  # whatever its power was
    if too_small and not is_settled and (look.is_final or not is_found):
        say(
            "underpowered",
            f"only a difference of {smallest:.4g} is found with {plan.power:.0%} power; "
            f"{wanted:.4g} was asked for",
        )
    is_asked = metric.role == "goal" or metric.name == plan.decides
    if is_asked and plan.launch_power == "underpowered":
        say("underpowered", LAUNCHED_UNDERPOWERED)
    if is_asked and lift is not None and abs(lift) > SUSPICIOUS_LIFT:
        say("needs_review", f"a lift of {lift:+.0%} is more often a fault than a success")
    if spike is not None:
        say("needs_review", spike)
    if exposure is not None:
        say("needs_review" if exposure.is_alarming else "ok", exposure.reason)
    if estimate.not_recombined is not None:
        say("needs_review", estimate.not_recombined)
    if estimate.flipped is not None:
        say("needs_review", f"stratum {estimate.flipped} surely goes the other way")
    plain = estimate.plain
    if (
        effect.effect is not None
        and plain.effect is not None
        and plain.standard_error
        and abs(effect.effect - plain.effect) > 3 * plain.standard_error
    ):
        say("needs_review", "the adjusted effect lies 3 standard errors off the unadjusted one")
    compared = len(plan.treated) * max(1, sum(m.covariate is not None for m in plan.metrics))
    if row["balance_p_value"] is not None and row["balance_p_value"] < BALANCE_ALARM / compared:
        say("needs_review", "the arms differed before the campaign began")
    if not look.is_final and plan.monitoring == "planned":
        at = f"look {look.number} of {len(plan.looks) + 1}"
        if crossed is None:
            say("window_open", f"{at}: the boundary has not been crossed")
        else:
            reasons.append(f"the boundary was crossed at look {crossed[0]}")
    row["status"] = status
    row["reason"] = "; ".join(reasons) or NOTHING_AGAINST
    if metric.name == plan.decides and status in ("ok", "underpowered"):
        low, high = row["shrunken_low"], row["shrunken_high"]
        if low is not None and high is not None:
            if plan.monitoring == "open_ended":
                # The shrunken interval holds once; the sequence holds on every day, the last too:
                # who could have stopped before cannot ask less at the end.
                low, high = min(low, row["effect_low"]), max(high, row["effect_high"])
            row["decision"] = "roll_out" if low > 0 else "stop" if high < 0 else "keep_testing"


def _adjust_for_multiplicity(plan: AnalysisPlan, rows: Sequence[dict[str, Any]]) -> None:
    """Holm over goals and arms at the end; Bonferroni where looks shared the error."""
    shared = bool(plan.looks) or plan.monitoring == "open_ended"
    if shared:
        times = {metric.name: plan.alpha / plan.error_of(metric) for metric in plan.metrics}
        for row in rows:
            if row["role"] == "goal" and row["p_value"] is not None:
                row["p_value_adjusted"] = min(1.0, row["p_value"] * times[row["metric"]])
    families: list[tuple[Role, Literal["holm", "fdr_bh"]]] = [("secondary", "fdr_bh")]
    if not shared:
        families.append(("goal", "holm"))
    for role, method in families:
        family = [row for row in rows if row["role"] == role and row["is_final"]]
        found = adjusted_p_values([row["p_value"] for row in family], method)
        for row, p_value in zip(family, found, strict=True):
            row["p_value_adjusted"] = p_value


def _hold_decisions(plan: AnalysisPlan, rows: Sequence[dict[str, Any]]) -> None:
    """Nothing is decided while a goal needs review, or rolled out over a guardrail.

    A guardrail stops where it is inferior, and defers where it cannot be judged or needs review.
    """
    for row in rows:
        if row["decision"] is None:
            continue
        newest = {
            other["metric"]: other
            for other in rows
            if other["arm"] == row["arm"] and other["look_date"] <= row["look_date"]
        }
        for name, other in newest.items():
            is_doubtful = other["is_suspect"] or other["status"] == "invalid"
            if other["role"] == "goal" and is_doubtful:
                row["decision"] = None
                row["reason"] += f"; nothing is decided before {name} has been reviewed"
        if row["decision"] != "roll_out":
            continue
        for metric in plan.metrics:
            other = newest.get(metric.name, {})
            verdict, is_suspect = other.get("guardrail_verdict"), other.get("is_suspect", False)
            if metric.role != "guardrail" or (verdict == "non_inferior" and not is_suspect):
                continue
            stops = verdict == "inferior" or row["decision"] == "stop"
            row["decision"] = "stop" if stops else "keep_testing"
            unsure = "is to be reviewed" if is_suspect else "may be inferior"
            said = "is inferior" if verdict == "inferior" else unsure
            row["reason"] += f"; the guardrail {metric.name} {said}"


def _nothing_yet(
    plan: AnalysisPlan,
    data: _Data,
    metric: MetricPlan,
    as_of: date,
) -> list[dict[str, Any]]:
    """Rows of a metric none of whose looks has come: the draw can be judged, the effect not."""
    end, rows = plan.end_date(metric), []
    stages = _stages(plan, data, metric, as_of)
    broken = [stages[stage] for stage in STAGES if stage in stages and stages[stage].is_broken]
    assigned = data.drawn.counts(data.drawn.on(np.datetime64(as_of)))
    exposure = data.exposure(as_of)
    for arm in plan.treated:
        row = _frame_of(plan, metric, 0, as_of, False, arm)
        row["assigned_count_arm"] = assigned[arm]
        row["assigned_count_control"] = assigned[plan.control_arm]
        row["customer_count_arm"] = row["customer_count_control"] = 0
        row |= {f"srm_p_{stage}": check.p_value for stage, check in stages.items()}
        row["status"] = "invalid" if broken else "window_open"
        nothing = f"final at the end of {end}; nothing is shown before"
        row["reason"] = _missing(broken[0]) if broken else nothing
        if plan.launch_power == "underpowered":
            row["reason"] += f"; {LAUNCHED_UNDERPOWERED}"
        if exposure is not None and exposure.is_alarming:
            row["reason"] += f"; {exposure.reason}"
        rows.append(row)
    return rows


def _frame_of(
    plan: AnalysisPlan, metric: MetricPlan, number: int, day: date, is_final: bool, arm: str
) -> dict[str, Any]:
    """An empty row; is_suspect (a review is due, open look or not) is not published."""
    return dict.fromkeys(COLUMNS) | {
        "is_suspect": False,
        "campaign_id": plan.campaign_id,
        "arm": arm,
        "metric": metric.name,
        "look": number,
        "look_date": day,
        "is_final": is_final,
        "role": metric.role,
        "control_arm": plan.control_arm,
        "minimum_effect": metric.minimum_effect,
        "non_inferiority_margin": metric.non_inferiority_margin,
    }


def _missing(check: StageCheck) -> str:
    """Where customers went missing, in words."""
    return (
        f"sample ratio broken at {check.stage!r} (p = {check.p_value:.1e}): arm {check.arm} lacks "
        f"about {check.missing:,.0f} customers beside the others; find them before reading anything"
    )


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """The rows with the types of `SCHEMA`, in its order."""

    def column(name: str, kind: str) -> Any:
        values = [row[name] for row in rows]
        if kind.startswith("double"):
            numbers = np.array(values, dtype=np.float64)  # None becomes not a number
            return np.where(np.isfinite(numbers), numbers, np.nan)
        if kind == "boolean?":
            return pd.array(values, dtype="boolean")
        kinds = {"integer": "int64", "boolean": "bool"}
        return (
            np.array(values, dtype=kinds[kind])
            if kind in kinds
            else pd.Series(values, dtype="object")
        )

    return pd.DataFrame({name: column(name, kind) for name, (kind, _) in SCHEMA.items()})


def _normal_tail(z: float) -> float:
    from scipy import special

    return float(special.ndtr(-z))


def _normal_quantile(tail: float) -> float:
    from scipy import special

    return min(-float(special.ndtri(tail)), 38.0) if tail > 0 else 38.0
