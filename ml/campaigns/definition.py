"""What a campaign is: the model of its YAML file, its hash, and the refusal of later changes.

What belongs here: fields, their validation, the configuration's hash. What does not: reading
files (the caller passes text and the name to use in errors), customers, arms of customers.

A campaign is an experiment: who is targeted, which arms with which weights, what is measured when.
Once a customer has been assigned, all of that is fixed: a change is a new version, which is a new
randomisation (the id, version included, is the salt of the assignment).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import ConfigDict, Field, ValidationInfo, field_validator, model_validator

from ml.campaigns.audience import Condition, unknown_field
from ml.documents import Document, DocumentError, line_of, parse

Channel = Literal["email", "sms", "push", "phone", "post", "ads"]
Metric = Literal[
    "retained",
    "order_count",
    "revenue_amount",
    "discount_amount",
    "margin_amount",
    "net_margin_amount",
    "profit_amount",
    "average_order_amount",
]
# Ratios of two sums over an arm's customers: of what, per what. No customer has a value of their
# own, so they are tested by the delta method, and nobody learns from them.
RATIOS: Mapping[Metric, tuple[Metric, Metric]] = {
    "average_order_amount": ("revenue_amount", "order_count")
}
Play = Literal["service_call", "reminder", "coupon", "personal_call", "none"]
# In the order in which they are applied; the first that fires is the reason that is published.
Rule = Literal[
    "no_consent",
    "suppressed",
    "business_account",
    "complaint",
    "low_rating",
    "undelivered_order",
    "open_return",
    "recent_order",
    "contact_cap",
    "in_other_campaign",
    "wash_out",
]
# What a consent without a purpose covers; what campaigns and plays contact for unless they say so.
MARKETING = "marketing"
# The context of a bandit: a column of customer_segments.
BANDIT_SEGMENT = "rfm_segment"
ALWAYS_ON: frozenset[Rule] = frozenset({"no_consent", "suppressed", "in_other_campaign"})

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Words = Annotated[str, Field(min_length=1)]
Money = Annotated[Decimal, Field(ge=0)]

# What may be corrected at any time: it decides neither who is in which arm nor what is read.
FREE = frozenset({"name", "approver", "budget_amount"})
# What was promised about the reading; everything else that is not free decides about customers.
PROMISED = frozenset({"objective", "outcome", "contact_cost_amount", "if_underpowered"})


class CampaignError(DocumentError):
    """A campaign file is wrong, or contradicts what has already been assigned."""


class Arm(Document):
    """One arm: who is drawn into it (weight), what its customers get, and what that costs.

    `discount_amount`: face value of the offer for a customer who redeems it; `redemption_rate`: the
    share expected to. Both only plan the cost; what a discount really cost is measured.
    """

    name: Identifier
    weight: Annotated[float, Field(gt=0, le=1)]
    play: Play
    offer: str = ""
    discount_amount: Money = Decimal(0)
    redemption_rate: Share = 1.0
    contact_cost_amount: Money | None = None

    @property
    def is_discount(self) -> bool:
        """Whether the arm gives something away."""
        return self.play == "coupon" or self.discount_amount > 0


class Limit(Document):
    """At most so many eligible customers, those with the greatest value of a field."""

    field: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]
    customers: Annotated[int, Field(gt=0)]

    @field_validator("field")
    @classmethod
    def _is_a_number(cls, value: str, info: ValidationInfo) -> str:
        fields = (info.context or {}).get("fields")
        if fields and fields.get(value) != "number":
            known = f"is a {fields[value]}" if value in fields else unknown_field(value, fields)
            raise ValueError(f"{value!r} {known}; a number is needed")
        return value


class TurnedOff(Document):
    """An eligibility rule that does not apply to this campaign, and why."""

    rule: Rule
    reason: Annotated[str, Field(min_length=10)]

    @field_validator("rule")
    @classmethod
    def _never_without(cls, value: Rule) -> Rule:
        if value in ALWAYS_ON:
            what = "consent" if value == "no_consent" else value
            raise ValueError(f"{what} cannot be turned off")
        return value


class Eligibility(Document):
    """Rules applied before randomisation, alike for all arms; all are on unless turned off."""

    max_contacts_7d: Annotated[int, Field(ge=1)] = 2
    max_contacts_30d: Annotated[int, Field(ge=1)] = 4
    recent_order_days: Annotated[int, Field(ge=1)] = 14
    # Days after the window of another campaign of the layer in which its effect may still linger.
    washout_days: Annotated[int, Field(ge=0, le=365)] = 7
    turned_off: tuple[TurnedOff, ...] = ()

    def applies(self, rule: Rule) -> bool:
        """Whether the rule is on."""
        return all(off.rule != rule for off in self.turned_off)


class Layer(Document):
    """Campaigns of one layer share no customer; each owns the share [start, stop) of its hash."""

    name: Identifier = "default"
    start: Share = 0.0
    stop: Share = 1.0

    @model_validator(mode="after")
    def _not_empty(self) -> Layer:
        if not self.start < self.stop:
            raise ValueError(f"the share [{self.start}, {self.stop}) is empty")
        return self


class Guardrail(Document):
    """A metric that must not get worse by more than `margin` per customer, in its own unit."""

    metric: Metric
    margin: Annotated[float, Field(gt=0)]


class Outcome(Document):
    """What is measured: the window opens after the assignment day and includes its last day.

    `return_lag_days` after the window net margin and profit are read: by then most of what comes
    back has (Online Retail II: median 10 days, 90th percentile 78). `goals` stand beside the
    primary metric and share its error. `looks` counts the readings of each metric, the last
    included, at equal shares of the days on which its own values become final; with open-ended
    monitoring every day is one, and intervals are wider. `winsorise` caps a metric for its test at
    a quantile of all arms together; profit is never capped.
    """

    window_days: Annotated[int, Field(ge=1, le=365)]
    return_lag_days: Annotated[int, Field(ge=0, le=365)] = 30
    primary_metric: Metric
    metrics: tuple[Metric, ...] = ("retained", "order_count", "revenue_amount", "margin_amount")
    # Smallest absolute difference per customer that would matter, in the metric's unit.
    minimum_effects: dict[Metric, Annotated[float, Field(gt=0)]]
    goals: tuple[Metric, ...] = ()
    guardrails: tuple[Guardrail, ...] = ()
    winsorise: dict[Metric, Annotated[float, Field(gt=0.5, lt=1)]] = Field(default_factory=dict)
    monitoring: Literal["planned", "open_ended"] = "planned"
    looks: Annotated[int, Field(ge=1, le=20)] = 1
    # Assigned in all, as planned: what an interim look is a share of.
    planned_customers: Annotated[int, Field(ge=2)] | None = None

    @model_validator(mode="after")
    def _primary_is_measured(self) -> Outcome:
        if self.primary_metric in RATIOS:
            raise ValueError(
                f"primary_metric: {self.primary_metric} is a ratio: no customer has a value of it; "
                "name it in metrics, goals or guardrails"
            )
        if self.primary_metric not in self.metrics:
            raise ValueError(f"primary_metric: {self.primary_metric} is not among metrics")
        if len(set(self.all_goals)) != len(self.all_goals):
            raise ValueError("goals: each metric once; the primary one is a goal already")
        for field, named in (("goals", self.goals), ("winsorise", self.winsorise)):
            if unknown := sorted(set(named) - set(self.metrics)):
                raise ValueError(f"{field}: {', '.join(unknown)} is not among metrics")
        if silent := sorted(set(self.all_goals) - set(self.minimum_effects)):
            raise ValueError(
                f"minimum_effects: must name {', '.join(silent)}: "
                "without it nobody can say whether the campaign is large enough"
            )
        if capped := sorted(set(self.winsorise) & {"retained", "profit_amount", *RATIOS}):
            raise ValueError(
                f"winsorise: {', '.join(capped)} is never capped: a share or ratio, or what decides"
            )
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError("metrics: one metric stands twice")
        if self.looks > 1 and self.planned_customers is None:
            raise ValueError("looks: an interim look is a share of planned_customers; declare them")
        if self.monitoring == "open_ended" and (self.looks > 1 or self.planned_customers is None):
            raise ValueError(
                "monitoring: open_ended has no planned looks (plan 1), and needs "
                "planned_customers, where its intervals are tightest"
            )
        guarded = [guardrail.metric for guardrail in self.guardrails]
        if unknown := sorted(set(guarded) - set(self.metrics)):
            raise ValueError(f"guardrails: {', '.join(unknown)} is not among metrics")
        if set(self.all_goals) & set(guarded) or len(set(guarded)) != len(guarded):
            raise ValueError("guardrails: each metric once, and not the primary one, or a goal")
        return self

    @property
    def all_goals(self) -> tuple[Metric, ...]:
        """The primary metric, and the goals beside it."""
        return (self.primary_metric, *self.goals)


class Bandit(Document):
    """The arms' weights follow results, by RFM segment: see ml/policy.py.

    floor: least probability of each arm, the control included; min_count: customers with a closed
    window that every arm needs before its weight moves. What a change may never do is move who is
    assigned.
    """

    floor: Annotated[float, Field(gt=0, le=0.5)] = 0.05
    min_count: Annotated[int, Field(ge=2)] = 100


class Campaign(Document):
    """One campaign file."""

    model_config = ConfigDict(populate_by_name=True)

    stem: Identifier = Field(alias="id")
    # A new version is a new randomisation: other salts, and customers of its own.
    version: Annotated[int, Field(ge=1)] = 1
    name: Words
    objective: Words
    approver: Words
    start_date: date
    # Last day on which customers are assigned; by default the first is also the last.
    end_date: date | None = None
    # In order of preference: each customer is reached by the first one consented to.
    channels: Annotated[tuple[Channel, ...], Field(min_length=1)]
    # What its customers must have consented to be contacted for, in a word of the shop's consents.
    purpose: Identifier = MARKETING
    arms: Annotated[tuple[Arm, ...], Field(min_length=2)]
    control_arm: str
    # The weights above hold until results say otherwise.
    bandit: Bandit | None = None
    audience: tuple[Condition, ...] = ()
    limit: Limit | None = None
    eligibility: Eligibility = Eligibility()
    coverage: Annotated[float, Field(gt=0, le=1)] = 1.0
    layer: Layer = Layer()
    global_holdout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    outcome: Outcome
    contact_cost_amount: Money = Decimal(0)
    # A campaign that cannot find its smallest effect worth having does not start, or starts marked.
    if_underpowered: Literal["refuse", "mark"] = "refuse"
    # What contacts and offers may cost as planned; whoever is beyond it is not enrolled.
    budget_amount: Money | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Campaign:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arms: two arms share a name in {names}")
        total = sum(arm.weight for arm in self.arms)
        # 1e-9 admits 0.34 + 0.33 + 0.33 in binary, and no weight that a person could mean.
        if abs(total - 1) > 1e-9:
            raise ValueError(f"arms: the weights sum to {total:g}, not to 1")
        if self.control_arm not in names:
            raise ValueError(f"control_arm: {self.control_arm!r} is not an arm of {names}")
        control = self.arm(self.control_arm)
        if control.play != "none" or control.is_discount:
            raise ValueError("control_arm: the control's play must be none: it gets no contact")
        treated = [arm for arm in self.arms if arm.name != self.control_arm]
        if any(arm.is_discount for arm in treated) and all(arm.is_discount for arm in treated):
            raise ValueError(
                "arms: a campaign with a discount needs a contacted arm without one, or nobody can "
                "tell what the discount did from what the contact did"
            )
        if len(set(self.channels)) != len(self.channels):
            raise ValueError("channels: one channel stands twice")
        if self.end_date is not None and self.end_date < self.start_date:
            raise ValueError(f"end_date: {self.end_date} lies before start_date {self.start_date}")
        is_always = self.outcome.monitoring == "open_ended"
        if (self.outcome.looks > 1 or is_always) and self.is_single_wave:
            raise ValueError(
                f"outcome: {'monitoring' if is_always else 'looks'}: everybody is assigned on one "
                "day, so all windows close on one day, and there is nothing to look at before it; "
                "plan 1 look, or an end_date"
            )
        if self.bandit is not None:
            self._learns(self.bandit)
        return self

    def _learns(self, bandit: Bandit) -> None:
        if bandit.floor * len(self.arms) > 1:
            raise ValueError(
                f"bandit: a floor of {bandit.floor} under {len(self.arms)} arms exceeds 1"
            )
        if low := [arm.name for arm in self.arms if arm.weight < bandit.floor]:
            raise ValueError(f"bandit: the weight of {', '.join(low)} is below the floor")
        if self.outcome.looks > 1 or self.outcome.monitoring == "open_ended":
            raise ValueError(
                "bandit: weights that follow results have no looks before the end; plan 1"
            )
        days = (self.last_assignment_date - self.start_date).days
        if days <= self.outcome.window_days:
            raise ValueError(
                f"bandit: customers are assigned over {days} days after the first, and the first "
                f"window closes after {self.outcome.window_days}: nothing is learnt in time"
            )

    @property
    def id(self) -> str:
        """What ledger, cohort and results know the campaign by; the salt of its draws."""
        return self.stem if self.version == 1 else f"{self.stem}_v{self.version}"

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def weights(self) -> dict[str, float]:
        """Weight per arm, in the order of the file."""
        return {arm.name: arm.weight for arm in self.arms}

    @property
    def fields(self) -> frozenset[str]:
        """Published columns that the audience and the limit ask for."""
        asked = {condition.field for condition in self.audience}
        asked |= {BANDIT_SEGMENT} if self.bandit else set()
        return frozenset(asked | ({self.limit.field} if self.limit else set()))

    @property
    def last_assignment_date(self) -> date:
        """The last day on which customers are assigned."""
        return self.end_date or self.start_date

    @property
    def is_single_wave(self) -> bool:
        """Whether all customers are assigned on one day, so that all windows close together."""
        return self.last_assignment_date == self.start_date

    @property
    def window_end_date(self) -> date:
        """Last day of the outcome window of the customers assigned last."""
        return self.last_assignment_date + timedelta(days=self.outcome.window_days)

    @property
    def settled_date(self) -> date:
        """The day on which the last reading is final."""
        return self.window_end_date + timedelta(days=self.outcome.return_lag_days)

    def assigns_on(self, day: date) -> bool:
        """Whether customers are assigned at the end of `day`."""
        return self.start_date <= day <= self.last_assignment_date

    def begun_on(self, day: date) -> Campaign:
        """The same campaign as one wave on another day: what it would be, had it started then."""
        return self.model_copy(update={"start_date": day, "end_date": None, "bandit": None})

    def contact_cost(self, arm: str) -> Decimal:
        """Cost of contacting one customer of the arm; the control costs nothing."""
        if arm == self.control_arm:
            return Decimal(0)
        own = self.arm(arm).contact_cost_amount
        return self.contact_cost_amount if own is None else own

    def planned_cost(self, arm: str) -> Decimal:
        """What one customer of the arm is expected to cost: the contact, and the offer redeemed."""
        own = self.arm(arm)
        return self.contact_cost(arm) + own.discount_amount * Decimal(str(own.redemption_rate))

    @property
    def affordable_customers(self) -> int | None:
        """How many customers the budget pays for, over all arms; None without a limit.

        A bandit may give nearly all of them the dearest arm.
        """
        share = sum(
            (Decimal(str(arm.weight)) * self.planned_cost(arm.name) for arm in self.arms),
            Decimal(0),
        )
        if self.bandit is not None:
            share = max(self.planned_cost(arm.name) for arm in self.arms)
        if self.budget_amount is None or share == 0:
            return None
        return int(self.budget_amount / share)

    @property
    def fixed(self) -> dict[str, Any]:
        """What the file says and may not be changed once a customer is assigned, as JSON types.

        Defaults are left out, so that a field that Holdfast learns later changes no hash.
        """
        content = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return {key: value for key, value in content.items() if key not in FREE}

    @property
    def config_sha256(self) -> str:
        """Hash of `fixed`: comments, order of keys and blanks do not count."""
        document = json.dumps(self.fixed, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(document.encode()).hexdigest()


def parse_campaign(text: str, source: str, context: Mapping[str, Any] | None = None) -> Campaign:
    """The campaign that a YAML text describes.

    context: `fields` and `values` of the audience, see `audience.Condition`. Raises CampaignError
    with `source` (the file's name), line and field.
    """
    return parse(text, source, Campaign, error=CampaignError, context=context)


def load_campaigns(
    files: Iterable[tuple[str, str]], context: Mapping[str, Any] | None = None
) -> tuple[Campaign, ...]:
    """All campaigns of a shop from (file name, text) pairs, sorted by id.

    Raises CampaignError where two files carry one id and version, two versions of one campaign
    assign on one day, or two files disagree about the global holdout: it is one group of customers
    for the whole shop.
    """
    found: dict[str, tuple[str, Campaign]] = {}
    for source, text in files:
        campaign = parse_campaign(text, source, context)

        def at(field: str, text: str = text, source: str = source) -> str:
            return f"{source}:{line_of(text, field)}: {field}"

        if campaign.id in found:
            raise CampaignError(f"{at('id')}: {campaign.id!r} is also in {found[campaign.id][0]}")
        for other, known in found.values():
            if known.global_holdout != campaign.global_holdout:
                raise CampaignError(
                    f"{at('global_holdout')}: {campaign.global_holdout} differs from "
                    f"{known.global_holdout} in {other}; the holdout is the same for all campaigns"
                )
            if (
                known.stem == campaign.stem
                and known.start_date <= campaign.last_assignment_date
                and campaign.start_date <= known.last_assignment_date
            ):
                raise CampaignError(
                    f"{at('version')}: version {campaign.version} of {campaign.stem} assigns "
                    f"while version {known.version} in {other} still does; start it after "
                    f"{known.last_assignment_date}, or take that file out of the folder"
                )
        found[campaign.id] = (source, campaign)
    return tuple(found[key][1] for key in sorted(found))


def refuse_changed(
    campaign: Campaign, ledger: pd.DataFrame, registered: Campaign | None = None
) -> None:
    """Raise CampaignError if customers were assigned under another configuration.

    registered: the campaign as it was when they were; with it the message names each change. Where
    nothing has changed, another version of Holdfast made the hash, and the campaign goes on.
    """
    known = set(ledger.loc[ledger["campaign_id"] == campaign.id, "config_sha256"])
    if not known - {campaign.config_sha256}:
        return
    if registered is not None and registered.fixed == campaign.fixed:
        return
    told = "the file is not the one under which they were assigned"
    if registered is not None and registered.config_sha256 in known:
        told = "; ".join(changes(registered, campaign))
    raise CampaignError(
        f"campaign {campaign.id} has changed after customers were assigned: {told}. Restore the "
        f"file, or make this a new version with `version: {campaign.version + 1}` and a start_date "
        "to come: a new randomisation with a result of its own"
    )


def changes(before: Campaign, after: Campaign) -> list[str]:
    """What differs between two states of a campaign among what is fixed, and what that would do."""
    old, new = _flat(before.fixed), _flat(after.fixed)
    told = []
    for field in sorted(set(old) | set(new)):
        if old.get(field) != new.get(field):
            top = field.partition(".")[0]
            does = "changes what was promised" if top in PROMISED else "would move customers"
            was, now = (_shown(side.get(field)) for side in (old, new))
            told.append(f"{field} was {was} and is {now}, which {does}")
    return told


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        parts = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict | list) for item in value):
        parts = ((str(number), item) for number, item in enumerate(value, 1))  # type: ignore[assignment]
    else:
        return {prefix.removesuffix("."): value}
    flat: dict[str, Any] = {}
    for name, item in parts:
        flat |= _flat(item, f"{prefix}{name}.")
    return flat


def _shown(value: Any) -> str:
    return "the default" if value is None else str(value)
