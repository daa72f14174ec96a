"""What a campaign is: the model of its YAML file, its hash, and the refusal of later changes.

What belongs here: fields, their validation, the configuration's hash. What does not: reading
files (the caller passes text and the name to use in errors), customers, arms of customers.

A campaign is an experiment: who is targeted, which arms with which weights, what is measured when.
Once a customer has been assigned, its definition is fixed: a change is a new campaign with a new id
(the id is the salt of the assignment).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from datetime import date, timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

import pandas as pd
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

Channel = Literal["email", "sms", "phone", "post"]
Metric = Literal["retained", "order_count", "revenue_amount", "margin_amount"]
Play = Literal["service_call", "reminder", "coupon", "personal_call", "none"]
RiskBand = Literal["high", "medium", "low"]
# In the order in which they are applied; the first that fires is the reason that is published.
Rule = Literal[
    "no_consent",
    "business_account",
    "complaint",
    "low_rating",
    "undelivered_order",
    "open_return",
    "recent_order",
    "contact_cap",
    "in_other_campaign",
]

Identifier = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Words = Annotated[str, Field(min_length=1)]


class CampaignError(ValueError):
    """A campaign file is wrong, or contradicts what has already been assigned."""


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class Arm(_Model):
    """One arm: who is drawn into it (weight) and what its customers get (play, offer)."""

    name: Identifier
    weight: Annotated[float, Field(gt=0, le=1)]
    play: Play
    offer: str = ""
    contact_cost_amount: Annotated[Decimal, Field(ge=0)] | None = None


class Target(_Model):
    """Whom the campaign is for. An empty list does not restrict."""

    lifecycles: tuple[Literal["prospect", "active", "dormant"], ...] = ()
    rfm_segments: tuple[str, ...] = ()
    cluster_names: tuple[str, ...] = ()
    risk_bands: tuple[RiskBand, ...] = ()
    min_churn_probability: Share | None = None
    top_n_by_margin_at_risk: Annotated[int, Field(gt=0)] | None = None

    @property
    def needs_score(self) -> bool:
        """Whether only customers with a churn score can be in the target."""
        return bool(
            self.risk_bands
            or self.min_churn_probability is not None
            or self.top_n_by_margin_at_risk is not None
        )

    @field_validator("rfm_segments")
    @classmethod
    def _known_segments(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        from ml.rfm import RFM_SEGMENTS

        if unknown := sorted(set(value) - set(RFM_SEGMENTS)):
            raise ValueError(f"unknown segments {unknown}; known are {list(RFM_SEGMENTS)}")
        return value


class TurnedOff(_Model):
    """An eligibility rule that does not apply to this campaign, and why."""

    rule: Rule
    reason: Annotated[str, Field(min_length=10)]

    @field_validator("rule")
    @classmethod
    def _never_without_consent(cls, value: str) -> str:
        if value == "no_consent":
            raise ValueError("consent cannot be turned off")
        return value


class Eligibility(_Model):
    """Rules applied before randomisation, alike for all arms; all are on unless turned off."""

    max_contacts_7d: Annotated[int, Field(ge=1)] = 2
    max_contacts_30d: Annotated[int, Field(ge=1)] = 4
    recent_order_days: Annotated[int, Field(ge=1)] = 14
    turned_off: tuple[TurnedOff, ...] = ()

    def applies(self, rule: Rule) -> bool:
        """Whether the rule is on."""
        return all(off.rule != rule for off in self.turned_off)


class Layer(_Model):
    """Campaigns of one layer share no customer; each owns the share [start, stop) of its hash."""

    name: Identifier = "default"
    start: Share = 0.0
    stop: Share = 1.0

    @model_validator(mode="after")
    def _not_empty(self) -> Layer:
        if not self.start < self.stop:
            raise ValueError(f"the share [{self.start}, {self.stop}) is empty")
        return self


class Outcome(_Model):
    """What is measured: the window opens after the assignment day and includes its last day."""

    window_days: Annotated[int, Field(ge=1, le=365)]
    primary_metric: Metric
    metrics: tuple[Metric, ...] = ("retained", "order_count", "revenue_amount", "margin_amount")
    # Smallest absolute difference per customer that would matter, in the metric's unit.
    minimum_effects: dict[Metric, Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _primary_is_measured(self) -> Outcome:
        if self.primary_metric not in self.metrics:
            raise ValueError(f"primary_metric {self.primary_metric} is not among metrics")
        if self.primary_metric not in self.minimum_effects:
            raise ValueError(
                f"minimum_effects must name {self.primary_metric}: "
                "without it nobody can say whether the campaign is large enough"
            )
        if len(set(self.metrics)) != len(self.metrics):
            raise ValueError("metrics names one metric twice")
        return self


class Campaign(_Model):
    """One campaign file."""

    id: Identifier
    name: Words
    description: Words
    approver: Words
    start_date: date
    # Last day on which customers are assigned; by default the first is also the last.
    end_date: date | None = None
    channel: Channel
    arms: Annotated[tuple[Arm, ...], Field(min_length=2)]
    control_arm: str
    target: Target
    eligibility: Eligibility = Eligibility()
    coverage: Annotated[float, Field(gt=0, le=1)] = 1.0
    layer: Layer = Layer()
    global_holdout: Annotated[float, Field(ge=0, lt=1)] = 0.05
    outcome: Outcome
    contact_cost_amount: Annotated[Decimal, Field(ge=0)] = Decimal(0)

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
        if self.arm(self.control_arm).play != "none":
            raise ValueError("control_arm: the control's play must be none: it gets no contact")
        if self.end_date is not None and self.end_date < self.start_date:
            raise ValueError(f"end_date: {self.end_date} lies before start_date {self.start_date}")
        return self

    def arm(self, name: str) -> Arm:
        """The arm of that name."""
        return next(arm for arm in self.arms if arm.name == name)

    @property
    def weights(self) -> dict[str, float]:
        """Weight per arm, in the order of the file."""
        return {arm.name: arm.weight for arm in self.arms}

    @property
    def last_assignment_date(self) -> date:
        """The last day on which customers are assigned."""
        return self.end_date or self.start_date

    @property
    def window_end_date(self) -> date:
        """Last day of the outcome window of the customers assigned last."""
        return self.last_assignment_date + timedelta(days=self.outcome.window_days)

    def assigns_on(self, day: date) -> bool:
        """Whether customers are assigned at the end of `day`."""
        return self.start_date <= day <= self.last_assignment_date

    def contact_cost(self, arm: str) -> Decimal:
        """Cost of contacting one customer of the arm; the control costs nothing."""
        if arm == self.control_arm:
            return Decimal(0)
        own = self.arm(arm).contact_cost_amount
        return self.contact_cost_amount if own is None else own

    @property
    def config_sha256(self) -> str:
        """Hash of what the file says: comments, order of keys and blanks do not count."""
        document = json.dumps(self.model_dump(mode="json"), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(document.encode()).hexdigest()


def parse_campaign(text: str, source: str) -> Campaign:
    """The campaign that a YAML text describes.

    Raises CampaignError with `source` (the file's name), and line and column or field.
    """
    try:
        document = yaml.load(text, Loader=_StrictLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or str(error)
        raise CampaignError(f"{source}{where}: not readable as YAML: {problem}") from error
    if not isinstance(document, dict):
        raise CampaignError(f"{source}: a campaign is a mapping of fields, such as id and arms")
    try:
        return Campaign.model_validate(document)
    except ValidationError as error:
        lines = []
        for problem in error.errors(include_url=False):
            field = ".".join(str(part) for part in problem["loc"])
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"{source}: {field}: {message}" if field else f"{source}: {message}")
        raise CampaignError("\n".join(lines)) from error


def load_campaigns(files: Iterable[tuple[str, str]]) -> tuple[Campaign, ...]:
    """All campaigns of a shop from (file name, text) pairs, sorted by id.

    Raises CampaignError where two files carry one id, or disagree about the global holdout:
    it is one group of customers for the whole shop.
    """
    found: dict[str, tuple[str, Campaign]] = {}
    for source, text in files:
        campaign = parse_campaign(text, source)
        if campaign.id in found:
            raise CampaignError(f"{source}: id: {campaign.id!r} is also in {found[campaign.id][0]}")
        for other, known in found.values():
            if known.global_holdout != campaign.global_holdout:
                raise CampaignError(
                    f"{source}: global_holdout: {campaign.global_holdout} differs from "
                    f"{known.global_holdout} in {other}; the holdout is the same for all campaigns"
                )
        found[campaign.id] = (source, campaign)
    return tuple(found[key][1] for key in sorted(found))


def refuse_changed(campaign: Campaign, ledger: pd.DataFrame) -> None:
    """Raise CampaignError if customers were assigned under another configuration."""
    known = set(ledger.loc[ledger["campaign_id"] == campaign.id, "config_sha256"])
    if others := sorted(known - {campaign.config_sha256}):
        raise CampaignError(
            f"campaign {campaign.id} has changed after it started: customers were assigned under "
            f"configuration {', '.join(others)}, the file now is {campaign.config_sha256}. "
            "Restore the file, or start a new campaign with a new id."
        )


class _StrictLoader(yaml.SafeLoader):
    """YAML in which a key that stands twice is an error (the second would silently win)."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key_node, _ in node.value:
            if key_node.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key_node.value!r} stands twice", key_node.start_mark
                )
            seen.add(key_node.value)
        return super().construct_mapping(node, deep)
