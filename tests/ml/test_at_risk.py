"""The at-risk list: who is on it, in which order, with which play, for how long."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from ml.at_risk import COLUMNS, at_risk_list
from ml.plays import PlayError, Plays, handover_of, parse_plays
from ml.reasons import PASSED_OVER

DEFAULT = Path(__file__).parents[2] / "orchestration/defs/scores/default_plays.yaml"
PLAYS = parse_plays(DEFAULT.read_text(encoding="utf-8"), DEFAULT.name)
DAY = date(2025, 5, 1)
CONSENTS = ["has_email_consent", "has_sms_consent", "has_phone_consent", "has_post_consent"]
Frames = dict[str, pd.DataFrame]


def _frames(n: int = 40, day: date = DAY, **status: Any) -> Frames:
    """A day of `n` customers at risk; the first has the most to lose."""
    keys = [f"{i:032x}" for i in range(n)]
    base = {"snapshot_date": day, "customer_key": keys}
    margin = [Decimal(1_000 - i) for i in range(n)]
    return {
        "scores": pd.DataFrame(
            {
                **base,
                "churn_probability": 0.5,
                "risk_band": "high",
                "reason_1": "long silence",
                "expected_margin_amount": margin,
                "margin_at_risk_amount": [value / 2 for value in margin],
            }
        ),
        "status": pd.DataFrame(
            {
                **base,
                "account_type": "consumer",
                "days_since_last_order": 77,
                **dict.fromkeys(CONSENTS, True),
                "open_ticket_count": 0,
                "low_rating_count_90d": 0,
                "undelivered_order_count": 0,
                "last_contact_date": None,
                **status,
            }
        ),
        "segments": pd.DataFrame({**base, "rfm_segment": "At risk"}),
    }


def _list(
    frames: Frames,
    previous: pd.DataFrame | None = None,
    *,
    plays: Plays = PLAYS,
    features: pd.DataFrame | None = None,
    **options: Any,
) -> pd.DataFrame:
    if features is None:
        features = frames["status"][["customer_key"]].assign(discounted_order_rate_365d=0.0)
    return at_risk_list(
        frames["scores"],
        frames["status"],
        frames["segments"],
        previous,
        plays,
        features=features,
        **options,
    )


def test_the_most_margin_comes_first_and_capacity_cuts() -> None:
    table = _list(_frames(), capacity=10)
    assert list(table.columns) == COLUMNS
    assert list(table["priority"]) == list(range(1, 11))
    assert list(table["customer_key"]) == [f"{i:032x}" for i in range(10)]
    assert table["is_new"].all()
    assert (table["days_on_list"] == 1).all()
    assert table["margin_at_risk_amount"].iloc[0] == Decimal(500), "money stays exact"


@pytest.mark.parametrize("capacity", [1, 3, 7, 12])
def test_the_list_fills_up_though_those_with_most_at_stake_rest(capacity: int) -> None:
    """Whoever is asked about first may not be listed: then the next ones are, in their order."""
    frames = _frames(40)
    rests = [i < 25 or i % 3 == 0 for i in range(40)]
    frames["status"]["last_contact_date"] = [DAY if rest else None for rest in rests]
    everybody = _list(frames, capacity=1_000)
    assert [int(key, 16) for key in everybody["customer_key"]] == [
        i for i, rest in enumerate(rests) if not rest
    ]
    pd.testing.assert_frame_equal(
        _list(frames, capacity=capacity), everybody.head(capacity), check_dtype=True
    )


def test_ties_are_broken_by_probability_and_then_by_key_whatever_the_order() -> None:
    frames = _frames(6)
    frames["scores"]["margin_at_risk_amount"] = pd.Series([Decimal(5)] * 6)
    frames["scores"]["churn_probability"] = [0.1, 0.9, 0.5, 0.9, 0.5, 0.1]
    table = _list(frames)
    assert [int(key, 16) for key in table["customer_key"]] == [1, 3, 2, 4, 0, 5]
    shuffled = {name: frame.sample(frac=1, random_state=2) for name, frame in frames.items()}
    pd.testing.assert_frame_equal(_list(shuffled), table)


@pytest.mark.parametrize(
    ("frame", "changes"),
    [
        ("status", dict.fromkeys(CONSENTS, False)),
        ("status", dict.fromkeys(CONSENTS, None)),
        ("status", {"last_contact_date": DAY - timedelta(days=6)}),
        ("scores", {"risk_band": "low"}),
        ("scores", {"margin_at_risk_amount": Decimal(0)}),
    ],
)
def test_who_is_not_on_the_list(frame: str, changes: dict[str, Any]) -> None:
    frames = _frames(3)
    assert len(_list(frames)) == 3
    frames[frame] = frames[frame].assign(**changes)
    assert _list(frames).empty


def test_after_the_cooldown_a_customer_comes_back() -> None:
    assert len(_list(_frames(3, last_contact_date=DAY - timedelta(days=7)))) == 3
    assert _list(_frames(3, last_contact_date=DAY), cooldown_days=1).empty


def _play(
    features: pd.DataFrame | None = None, consents: set[str] | None = None, **status: Any
) -> tuple:
    """(play, channel, reason) of a customer whose margin is not among the top."""
    if consents is not None:
        status |= {name: name.split("_")[1] in consents for name in CONSENTS}
    frames = _frames(40, **status)
    row = _list(frames, features=features).iloc[-1]
    return row["suggested_play"], row["contact_channel"], row["main_reason"]


def test_the_play_follows_its_rule() -> None:
    discounts = pd.DataFrame(
        {"customer_key": [f"{i:032x}" for i in range(40)], "discounted_order_rate_365d": 0.5}
    )
    assert _play() == ("reminder", "email", "long silence")
    assert _play(discounts) == ("coupon", "email", "long silence")
    assert _play(discounts.assign(discounted_order_rate_365d=np.nan))[0] == "reminder"
    assert _play(discounts, account_type="business")[:2] == ("personal_call", "phone")
    trouble: dict[str, Any] = {"open_ticket_count": 1, "account_type": "business"}
    assert _play(discounts, **trouble) == ("service_call", "phone", "support ticket open")
    assert _play(low_rating_count_90d=1)[2] == "low rating given"
    assert _play(undelivered_order_count=2)[2] == "order not delivered"


def test_the_play_keeps_to_what_the_customer_permits() -> None:
    assert _play(consents={"email"}, account_type="business")[:2] == ("reminder", "email")
    assert _play(consents={"sms", "post"})[:2] == ("reminder", "sms")
    assert _play(consents={"phone"})[:2] == ("personal_call", "phone")
    assert _play(consents={"post"}, open_ticket_count=1)[:2] == ("service_call", "post")


def test_every_play_goes_over_a_permitted_channel() -> None:
    rng = np.random.default_rng(1)
    n = 400
    consents: dict[str, Any] = {name: rng.random(n) < 0.4 for name in CONSENTS}
    frames = _frames(n, **consents, account_type=rng.choice(["business", "consumer"], n))
    table = _list(frames).merge(frames["status"], on="customer_key")
    for row in table.to_dict("records"):
        assert row[f"has_{row['contact_channel']}_consent"]
        assert row["contact_channel"] in PLAYS.channels[row["suggested_play"]]
    assert len(table) == np.logical_or.reduce(list(consents.values())).sum()


def test_the_most_valuable_are_called_and_equal_margins_alike() -> None:
    table = _list(_frames(100))
    assert (table["suggested_play"] == "personal_call").sum() == 6
    frames = _frames(100)
    frames["scores"]["expected_margin_amount"] = pd.Series([Decimal(7)] * 100)
    assert set(_list(frames)["suggested_play"]) == {"personal_call"}


@pytest.mark.parametrize("reason", [None, "", PASSED_OVER])
def test_a_missing_reason_is_said_in_words(reason: str | None) -> None:
    frames = _frames(30)
    frames["scores"]["reason_1"] = reason
    assert set(_list(frames)["main_reason"]) == {"no order for 77 days"}


def test_days_on_the_list_count_calendar_days_and_newcomers_are_new() -> None:
    first = _list(_frames(5), capacity=3)
    second = _list(_frames(5, DAY + timedelta(days=1)), first)
    assert list(second["days_on_list"]) == [2, 2, 2, 1, 1]
    assert list(second["is_new"]) == [False, False, False, True, True]
    third = _list(_frames(5, DAY + timedelta(days=4)), second)
    assert list(third["days_on_list"]) == [5, 5, 5, 4, 4]
    assert _list(_frames(5), first.iloc[:0])["is_new"].all()


def test_frames_of_other_days_and_unknown_customers_are_refused() -> None:
    frames = _frames(3)
    with pytest.raises(ValueError, match="not before 2025-05-01"):
        _list(frames, _list(frames))
    mixed = frames | {"status": _frames(3, DAY - timedelta(days=1))["status"]}
    with pytest.raises(ValueError, match="one day"):
        _list(mixed)
    with pytest.raises(ValueError, match="2 scored customers"):
        _list(frames | {"status": frames["status"].iloc[:1]})


def test_an_empty_day_is_an_empty_list() -> None:
    frames = _frames(3)
    table = _list(frames | {"scores": frames["scores"].iloc[:0]})
    assert table.empty
    assert list(table.columns) == COLUMNS


def test_a_marketer_changes_the_rules() -> None:
    text = """
approver: Ada
channels:
  coupon: [email]
  reminder: [sms, email]
rules:
  - reason: worth a gift
    when:
      - {field: rfm_segment, operator: in, value: [At risk]}
      - {field: days_since_last_order, operator: ">=", value: 77}
    play: coupon
  - play: reminder
"""
    plays = parse_plays(text, "plays.yaml")
    frames = _frames(3)
    frames["status"].loc[1, "days_since_last_order"] = 10
    frames["status"].loc[2, "has_email_consent"] = False
    table = _list(frames, plays=plays)
    told = table[["suggested_play", "contact_channel", "main_reason"]].to_numpy().tolist()
    assert told == [
        ["coupon", "email", "worth a gift"],
        ["reminder", "sms", "long silence"],
        ["reminder", "sms", "worth a gift"],
    ]
    # Nobody is listed whom no play may reach.
    frames["status"].loc[2, "has_sms_consent"] = False
    assert len(_list(frames, plays=plays)) == 2


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("play: reminder\n", "play: remind\n"), "plays.yaml:41: rules.7.play"),
        (("  coupon: [email", "  voucher: [email"), "plays.yaml:"),
        (("  reminder: [email, sms, post]\n", ""), "channels: reminder has none"),
        (('operator: ">="', "operator: like"), "rules.6.when.1.operator"),
        (("approver: Head of CRM ", "approver: '' #"), "plays.yaml:5: approver"),
        (
            ("# purposes: {service_call", "purposes: {gift: x, service_call"),
            "plays.yaml:17: purposes.gift",
        ),
        (("# purposes: {service_call: service", "purposes: {service_call: 1st"), "plays.yaml:17: "),
        (
            ("# purposes: {service_call", "purposes: {servce_call"),
            "plays.yaml:17: purposes.servce_call: should be 'service_call', 'personal_call',",
        ),
        (
            ("# purposes: {service_call: service}", "purposes: service"),
            "plays.yaml:17: purposes: needs lines of `name: value`, not 'service'",
        ),
        (("# purposes: {service_call: service}", "purposes:"), "plays.yaml:17: purposes: is empty"),
        (("coupon: [email, sms, post]", "coupon: email"), "channels.coupon: needs a list, not"),
        (("Head of CRM ", " "), "plays.yaml:5: approver: is empty"),
        (("play: reminder\n", "play:\n"), "plays.yaml:41: rules.7.play: is empty"),
    ],
)
def test_a_bad_play_file_says_where(change: tuple[str, str], words: str) -> None:
    text = DEFAULT.read_text(encoding="utf-8")
    assert change[0] in text
    with pytest.raises(PlayError) as caught:
        parse_plays(text.replace(*change), "plays.yaml")
    assert words in str(caught.value)
    assert "[key]" not in str(caught.value)


def test_a_play_may_need_a_consent_of_its_own_purpose() -> None:
    """A service call by leave of its own: who wants no marketing gets it, and nothing else."""
    text = DEFAULT.read_text(encoding="utf-8").replace("# purposes:", "purposes:")
    plays = parse_plays(text, "plays.yaml")
    frames = _frames(3, open_ticket_count=1)
    frames["status"]["other_consents"] = ["email:service|phone:survey", None, "phone:service"]
    frames["status"].loc[0, CONSENTS] = False
    table = _list(frames, plays=plays).set_index("customer_key")
    found = table[["suggested_play", "contact_channel"]].to_numpy().tolist()
    assert found == [
        ["service_call", "email"],
        ["reminder", "email"],  # no consent to a service call: the next rule that is allowed
        ["service_call", "phone"],
    ]
    by_default = _list(frames)
    assert len(by_default) == 2, "marketing unless the file says otherwise"
    assert set(by_default["suggested_play"]) == {"service_call"}
    assert handover_of(plays, "service_call", DAY, 0.0).purpose == "service"
    assert handover_of(plays, "coupon", DAY, 0.0).purpose == "marketing"
    with pytest.raises(PlayError, match="purposes: reminder has no channels"):
        parse_plays(
            "approver: Ada\nchannels: {coupon: [email]}\npurposes: {reminder: service}\n"
            "rules: [{play: coupon}]\n",
            "plays.yaml",
        )


def test_a_play_for_everybody_is_needed() -> None:
    text = """
approver: Ada
channels: {reminder: [email]}
rules:
  - {play: reminder, when: [{field: rfm_segment, operator: "=", value: Lost}]}
"""
    with pytest.raises(PlayError, match="the last needs no condition"):
        parse_plays(text, "plays.yaml")


def test_a_play_is_handed_over_by_leave_of_the_files_approver() -> None:
    handover = handover_of(PLAYS, "coupon", DAY, 0.05)
    assert handover.id == "at_risk_coupon_20250501"
    assert (handover.approver, handover.channels) == ("Head of CRM", ("email", "sms", "post"))
    assert handover.offers == {"coupon": ("coupon", "")}
    other = PLAYS.model_copy(update={"approver": "Somebody else"})
    assert handover_of(other, "coupon", DAY, 0.05).fingerprint != handover.fingerprint
