"""What to do about a customer at risk: rules that a marketer can edit, from reason to play.

What belongs here: the model of the play file, and which rule suggests what for whom. What does not:
who is on the list (at_risk.py), reading the file.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from datetime import date
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field, model_validator

from ml.campaigns.audience import Condition, meets
from ml.campaigns.definition import MARKETING, Channel, Identifier, Words
from ml.campaigns.eligibility import reachable_by
from ml.campaigns.export import Handover
from ml.documents import Document, DocumentError, parse

Action = Literal["service_call", "personal_call", "coupon", "reminder"]


class PlayError(DocumentError):
    """A play file that does not say what it should."""


class Rule(Document):
    """For customers who meet every condition of `when`: what to do, and why in words.

    Without words of its own the main reason of the score is given.
    """

    play: Action
    reason: Words | None = None
    when: tuple[Condition, ...] = ()


class Plays(Document):
    """The play file: how each play may reach a customer, and the rules in order."""

    approver: Words
    # In order of preference. A play without a permitted channel gives way to the next rule.
    channels: dict[Action, Annotated[tuple[Channel, ...], Field(min_length=1)]]
    # What the customer must have consented to be contacted for, per play; marketing unless named.
    purposes: dict[Action, Identifier] = Field(default_factory=dict)
    rules: Annotated[tuple[Rule, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _each_play_has_channels(self) -> Plays:
        if lacking := sorted({rule.play for rule in self.rules} - set(self.channels)):
            raise ValueError(f"channels: {', '.join(lacking)} has none")
        if idle := sorted(set(self.purposes) - set(self.channels)):
            raise ValueError(f"purposes: {', '.join(idle)} has no channels")
        if all(rule.when for rule in self.rules):
            raise ValueError("rules: the last needs no condition, so that everybody has a play")
        return self

    @property
    def fields(self) -> frozenset[str]:
        """Columns that the rules ask for."""
        return frozenset(condition.field for rule in self.rules for condition in rule.when)

    def purpose_of(self, play: Action) -> str:
        """What a customer must have consented to be contacted for to get the play."""
        return self.purposes.get(play, MARKETING)


def parse_plays(text: str, source: str, context: Mapping[str, Any] | None = None) -> Plays:
    """The plays that a YAML text describes.

    context: `fields` and `values` of the conditions, see `audience.Condition`. Raises PlayError
    with `source` (the file's name), line and field.
    """
    return parse(text, source, Plays, error=PlayError, context=context)


def suggest(plays: Plays, customers: pd.DataFrame) -> pd.DataFrame:
    """Return suggested_play, contact_channel and reason of each row, indexed like `customers`.

    customers: the columns of `plays.fields`, `has_<channel>_consent`, and `other_consents` where a
    play has a purpose of its own. Each gets the play of the
    first rule that they meet and have a permitted channel for; null where there is none. The reason
    is that of the first rule that they meet and that gives one, else null.
    """
    found = pd.DataFrame(
        {"suggested_play": None, "contact_channel": None, "reason": None},
        index=customers.index,
        dtype="object",
    )
    channels = {
        play: reachable_by(plays.channels[play], customers, plays.purpose_of(play))
        for play in {rule.play for rule in plays.rules}
    }
    for rule in plays.rules:
        met = meets(rule.when, customers)
        if rule.reason is not None:
            found["reason"] = found["reason"].mask(met & found["reason"].isna(), rule.reason)
        channel = channels[rule.play]
        fits = met & channel.notna() & found["suggested_play"].isna()
        found["suggested_play"] = found["suggested_play"].mask(fits, rule.play)
        found["contact_channel"] = found["contact_channel"].mask(fits, channel)
    return found


def handover_of(plays: Plays, play: Action, day: date, global_holdout: float) -> Handover:
    """What is handed over of one play of one day's list: approved, consented, once.

    Nobody is drawn: whoever is on the list gets the play. The global holdout is left out there,
    too: it is held out from everything.
    """
    rules = plays.model_dump_json()
    return Handover(
        id=f"at_risk_{play}_{day:%Y%m%d}",
        name=f"At-risk list, {play.replace('_', ' ')}",
        approver=plays.approver,
        channels=plays.channels[play],
        offers={play: (play, "")},
        global_holdout=global_holdout,
        fingerprint=hashlib.sha256(rules.encode()).hexdigest(),
        purpose=plays.purpose_of(play),
    )
