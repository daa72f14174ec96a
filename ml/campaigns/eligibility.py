"""Who may take part at all: rules on what was known at the end of the day, before randomisation.

What belongs here: the rules, their order, the first reason. What does not: the audience
(cohorts.py) and anything that knows an arm. The same rules hold for control and treatment, which is
what keeps the arms comparable.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from datetime import date, timedelta
from typing import get_args

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.campaigns.assignment import in_global_holdout
from ml.campaigns.definition import MARKETING, Campaign, Eligibility, Rule
from ml.frames import is_among

RULES: tuple[Rule, ...] = get_args(Rule)


def first_exclusion(
    campaign: Campaign,
    status: pd.DataFrame,
    day: date,
    ledger: pd.DataFrame,
    suppressed: Collection[str] = (),
) -> pd.Series:
    """The first rule that excludes each customer, or null; indexed by customer_key.

    `status` is customer_status of `day`; `suppressed` holds the customers whom nobody may contact
    on that day; `ledger` all assignments so far, of all campaigns. Order of the rules: no_consent
    (to none of the channels, for the campaign's purpose), suppressed (on the list),
    business_account, complaint (a ticket open, or opened in 30 days), low_rating (two stars or less
    in 90 days), undelivered_order, open_return (a return in 30 days), recent_order (an order in the
    last `recent_order_days` days), contact_cap
    (messages of 7 and of 30 days, see `planned_contacts`), in_other_campaign (a campaign of the
    same layer whose outcome window is still open for the customer), wash_out (closed less than
    `washout_days` ago). Unknown consent is no consent.
    """
    rules = campaign.eligibility
    keys = status["customer_key"]
    held, washing = in_layer(campaign, day, ledger)
    planned = [planned_contacts(campaign, status, day, ledger, days) for days in (7, 30)]
    fired = {
        **_by_status(rules, campaign.channels, campaign.purpose, status, planned),
        "suppressed": is_among(keys, suppressed),
        "in_other_campaign": is_among(keys, held),
        "wash_out": is_among(keys, washing),
    }
    applied = [rule for rule in RULES if rules.applies(rule)]
    masks = [pd.Series(fired[rule]).fillna(False).to_numpy(dtype=bool) for rule in applied]
    reason = np.select(masks, applied, default="") if len(status) else np.array([], dtype=str)
    named = pd.Series(reason, index=keys, dtype="object", name="exclusion_reason")
    return named.where(named != "", None)


def may_be_contacted(
    campaign: Campaign,
    status: pd.DataFrame,
    day: date,
    ledger: pd.DataFrame,
    suppressed: Collection[str] = (),
) -> frozenset[str]:
    """Customers whom no rule of the campaign excludes on `day`, and who are not held out."""
    reason = first_exclusion(campaign, status, day, ledger, suppressed)
    keys = reason.index[reason.isna()]
    held_out = in_global_holdout(keys, day, campaign.global_holdout)
    return frozenset(keys[~held_out])


def is_eligible(
    channels: Sequence[str], status: pd.DataFrame, rules: Eligibility | None = None
) -> pd.Series:
    """Return whom no rule excludes that looks at `customer_status` alone; the index of `status`.

    rules: default those that a campaign has unless its file says otherwise. Suppressions, and what
    other campaigns hold, are not looked at: this is for telling whom campaigns can reach at all.
    """
    rules = rules or Eligibility()
    fired = _by_status(rules, channels, MARKETING, status, [np.zeros(len(status))] * 2)
    excluded = np.zeros(len(status), dtype=bool)
    for rule, mask in fired.items():
        if rules.applies(rule):
            excluded |= pd.Series(mask).fillna(False).to_numpy(dtype=bool)
    return pd.Series(~excluded, status.index)


def _by_status(
    rules: Eligibility,
    channels: Sequence[str],
    purpose: str,
    status: pd.DataFrame,
    planned: Sequence[npt.NDArray[np.float64]],
) -> dict[Rule, pd.Series | npt.NDArray[np.bool_]]:
    """Return whom each rule excludes that looks at `customer_status`.

    planned: contacts of 7 and of 30 days that are under way beside those that it knows of.
    """
    contacts = [
        _count(status, f"contact_count_{days}d") + more
        for days, more in zip((7, 30), planned, strict=True)
    ]
    return {
        "no_consent": reachable_by(channels, status, purpose).isna(),
        "business_account": status["account_type"].eq("business"),
        "complaint": _count(status, "open_ticket_count") + _count(status, "ticket_count_30d") > 0,
        "low_rating": _count(status, "low_rating_count_90d") > 0,
        "undelivered_order": _count(status, "undelivered_order_count") > 0,
        "open_return": _count(status, "return_count_30d") > 0,
        "recent_order": status["days_since_last_order"].astype("float64") < rules.recent_order_days,
        "contact_cap": (contacts[0] >= rules.max_contacts_7d)
        | (contacts[1] >= rules.max_contacts_30d),
    }


def has_consent(channel: str, status: pd.DataFrame, purpose: str = MARKETING) -> pd.Series:
    """Whether each row's customer may be contacted on the channel for the purpose.

    Unknown means no. Marketing has a column per channel; the other purposes share one text,
    `channel:purpose` with a | between two.
    """
    if purpose == MARKETING:
        return status[f"has_{channel}_consent"].fillna(False).astype(bool)
    given = "|" + status["other_consents"].fillna("").astype("str") + "|"
    return given.str.contains(f"|{channel}:{purpose}|", regex=False).astype(bool)


def unheard_of(purposes: Mapping[str, str], status: pd.DataFrame) -> dict[str, str]:
    """Say of each purpose that nobody consents to what may have been meant: a slip is no refusal.

    purposes: by the name of what contacts for it. status: a day of customer_status, everybody in
    it; of nobody nothing is said. Returns words by name, of those names only. Marketing is not
    looked up: every shop has it.
    """
    others = {name: purpose for name, purpose in purposes.items() if purpose != MARKETING}
    if not others or not len(status):
        return {}
    given = [str(one).split("|") for one in status["other_consents"].dropna().unique()]
    known = sorted({one.partition(":")[2] for several in given for one in several} - {""})
    found = {}
    for name, purpose in others.items():
        if purpose not in known:
            near = difflib.get_close_matches(purpose, [MARKETING, *known], 1)
            meant = f"; did you mean {near[0]!r}?" if near else ""
            there = ", ".join([MARKETING, *known])
            found[name] = (
                f"nobody consents to the purpose {purpose!r}, so nobody is contacted for it; the "
                f"shop's consents are to {there}{meant}"
            )
    return found


def reachable_by(
    channels: Sequence[str], status: pd.DataFrame, purpose: str = MARKETING
) -> pd.Series:
    """The first of `channels` that each row's customer consents to for the purpose, or null."""
    found = pd.Series(None, index=status.index, dtype="object")
    for channel in channels:
        found = found.mask(found.isna() & has_consent(channel, status, purpose), channel)
    return found


def in_layer(campaign: Campaign, day: date, ledger: pd.DataFrame) -> tuple[set[str], set[str]]:
    """Customers whom another campaign of the same layer holds on `day`, and those it just let go.

    Both hold the control included. The first: the window is still open; the second: it closed less
    than the wash-out ago.
    """
    rows = _before(campaign, day, ledger)
    rows = rows[rows["layer"] == campaign.layer.name]
    ends = rows["window_end_date"]
    # Window (assigned, assigned + w]: a customer is free again after its last day.
    is_open = ends >= day
    lingers = ~is_open & (ends >= day - timedelta(days=campaign.eligibility.washout_days))
    return set(rows.loc[is_open, "customer_key"]), set(rows.loc[lingers, "customer_key"])


def planned_contacts(
    campaign: Campaign, status: pd.DataFrame, day: date, ledger: pd.DataFrame, days: int
) -> npt.NDArray[np.float64]:
    """Assignments by other campaigns in the last `days` days that no message accounts for yet.

    Who is assigned on a day is contacted on the next, and the shop tells of it later still: without
    this, two campaigns would both see nobody contacted. Who has had any message since is counted by
    the messages. A control counts as if contacted: otherwise the next campaign would fill up with
    the controls of this one, and treat them.
    """
    rows = _before(campaign, day, ledger)
    rows = rows[rows["assigned_date"] >= day - timedelta(days=days)]
    counts = np.zeros(len(status))
    if rows.empty or status.empty:
        return counts
    at = pd.Index(status["customer_key"]).get_indexer(pd.Index(rows["customer_key"]))
    is_control = rows["is_control"].fillna(False).to_numpy(dtype=bool)
    controls = np.bincount(at[(at >= 0) & is_control], minlength=len(status))
    treated = (at >= 0) & ~is_control
    pending = np.bincount(at[treated], minlength=len(status))
    assigned = pd.to_datetime(rows["assigned_date"]).to_numpy("datetime64[D]").astype(np.int64)
    newest = np.zeros(len(status), dtype=np.int64)
    np.maximum.at(newest, at[treated], assigned[treated])
    contacted = pd.to_datetime(status["last_contact_date"]).to_numpy("datetime64[D]")
    is_told = ~np.isnat(contacted) & (contacted.astype(np.int64) > newest)
    return counts + controls + np.where(is_told, 0, pending)


def _before(campaign: Campaign, day: date, ledger: pd.DataFrame) -> pd.DataFrame:
    """The rows of other campaigns that stood when this one drew on `day`.

    Of two campaigns that draw on one day the one with the smaller id goes first, so a rerun sees
    what the first run saw: rows of later days, and of the same day's later campaigns, do not count.
    """
    other = ledger["campaign_id"] != campaign.id
    earlier = (ledger["assigned_date"] < day) | (
        (ledger["assigned_date"] == day) & (ledger["campaign_id"] < campaign.id)
    )
    return ledger[other & earlier]


def _count(status: pd.DataFrame, column: str) -> pd.Series:
    return status[column].astype("float64").fillna(0)
