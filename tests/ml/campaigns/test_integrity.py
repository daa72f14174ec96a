"""One customer, one treatment; and strata that make the total: planted faults and none."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from small_shop import DAY, campaign, keys

from ml.campaigns.assignment import assign, empty_ledger
from ml.campaigns.integrity import (
    CONTROL_CONTACTED,
    IN_OTHER_CAMPAIGN,
    OTHER_ARM,
    OTHER_ARM_SENT,
    Exposure,
    differs,
    exposure_on,
    multiple_exposures,
    poststratified_mean,
)

WINDOW = 30
END = DAY + timedelta(days=WINDOW)


def _ledger(n: int = 1_000, name: str = "winback_1", **changes: Any) -> pd.DataFrame:
    drawn = assign(campaign(id=name, layer={"name": "retention"}), keys(n), DAY, empty_ledger())
    return drawn.assign(**changes)


def _outcomes(ledger: pd.DataFrame) -> pd.DataFrame:
    """As measured: the arm drawn, and messages to all but the control."""
    sent = pd.array(~ledger["is_control"].astype(bool), dtype="boolean")
    return ledger[["customer_key", "arm"]].assign(is_sent=sent)


def _found(
    ledger: pd.DataFrame, outcomes: pd.DataFrame | None = None, others: pd.DataFrame | None = None
) -> pd.DataFrame:
    return multiple_exposures(
        ledger,
        _outcomes(ledger) if outcomes is None else outcomes,
        campaign_id="winback_1",
        control_arm="control",
        window_days=WINDOW,
        others=others,
    )


# -- multiple exposure ----------------------------------------------------------------------------


def test_one_customer_in_one_arm_is_no_exposure() -> None:
    ledger = _ledger()
    apart = _ledger(name="other", layer="another layer")
    strangers = _ledger(name="summer_1").assign(customer_key=keys(1_000, "others")[: len(ledger)])
    for others in (None, ledger, pd.concat([ledger, apart, strangers])):
        found = _found(ledger, others=others)
        assert found.empty
        assert exposure_on(found, np.datetime64(END), len(ledger)) is None
    nobody = _found(ledger[:0], others=ledger)
    assert list(nobody.columns) == ["customer_key", "kind", "since"]
    unknown = _outcomes(ledger).assign(is_sent=pd.array([pd.NA] * len(ledger), dtype="boolean"))
    assert _found(ledger, unknown).empty, "unknown messages accuse nobody"


@pytest.mark.parametrize(
    ("start", "end", "since"),
    [
        (DAY - timedelta(days=9), DAY, None),  # its last day is the eve of ours
        (DAY - timedelta(days=9), DAY + timedelta(days=1), DAY),
        (DAY + timedelta(days=7), DAY + timedelta(days=50), DAY + timedelta(days=7)),
        (END - timedelta(days=1), END + timedelta(days=5), END - timedelta(days=1)),
        (END, END + timedelta(days=5), None),  # what it does comes after ours
    ],
)
def test_two_campaigns_of_a_layer_share_nobody_while_both_are_open(
    start: date, end: date, since: date | None
) -> None:
    ledger = _ledger()
    other = ledger.iloc[:20].assign(
        campaign_id="summer_1", assigned_date=start, window_end_date=end
    )
    twice = pd.concat([ledger, other, other.assign(campaign_id="summer_2")])
    found = _found(ledger, others=twice)
    if since is None:
        assert found.empty
        return
    assert sorted(found["customer_key"]) == sorted(other["customer_key"]), "once each"
    assert set(found["kind"]) == {IN_OTHER_CAMPAIGN}
    assert set(found["since"].dt.date) == {since}
    assert exposure_on(found, np.datetime64(since - timedelta(days=1)), 1_000) is None
    told = exposure_on(found, np.datetime64(since), 1_000)
    assert told == Exposure(20, 1_000, {IN_OTHER_CAMPAIGN: 20})


def test_controls_who_got_the_message_and_other_arms_are_counted_once_a_customer() -> None:
    ledger = _ledger()
    outcomes = _outcomes(ledger)
    controls = outcomes.index[outcomes["arm"].eq("control")]
    treated = outcomes.index[outcomes["arm"].eq("reminder")]
    outcomes.loc[controls[:12], "is_sent"] = True
    outcomes.loc[[*controls[:3], treated[0]], "arm"] = "coupon"
    strangers = outcomes[:2].assign(customer_key=keys(2, "nobody"), arm="coupon")
    shuffled = pd.concat([outcomes, strangers]).sample(frac=1, random_state=1)
    found = _found(ledger, shuffled)
    assert found["kind"].value_counts().to_dict() == {CONTROL_CONTACTED: 12, OTHER_ARM: 4}
    assert set(found["since"].dt.date) == {END}, "an outcome is known when its window closes"
    told = exposure_on(found, np.datetime64(END), len(ledger))
    assert told is not None
    assert told.customers == 13
    pd.testing.assert_frame_equal(found, _found(ledger, outcomes))


def test_who_got_the_message_of_another_arm_is_counted_where_messages_say_whose_they_are() -> None:
    ledger = _ledger()
    outcomes = _outcomes(ledger)
    controls = outcomes.index[outcomes["arm"].eq("control")]
    treated = outcomes.index[outcomes["arm"].eq("reminder")]
    unknown = pd.array([pd.NA] * len(ledger), dtype="boolean")
    assert _found(ledger, outcomes.assign(is_sent_other_arm=unknown)).empty
    outcomes["is_sent_other_arm"] = pd.array([False] * len(ledger), dtype="boolean")
    assert _found(ledger, outcomes).empty
    outcomes.loc[[*treated[:15], controls[0]], "is_sent_other_arm"] = True
    outcomes.loc[treated[15:30], "is_sent_other_arm"] = pd.NA
    outcomes.loc[controls[0], "is_sent"] = True
    found = _found(ledger, outcomes)
    assert found["kind"].value_counts().to_dict() == {OTHER_ARM_SENT: 15, CONTROL_CONTACTED: 1}
    told = exposure_on(found, np.datetime64(END), len(ledger))
    assert told is not None
    assert told.is_alarming
    assert "15 who got the message of another arm" in told.reason
    assert "mixed the arms up" in told.reason


def test_above_one_percent_is_alarming_and_says_how_many_and_what_to_do() -> None:
    few = Exposure(10, 1_000, {CONTROL_CONTACTED: 10})
    assert not few.is_alarming
    assert few.reason == (
        "10 of 1,000 customers (1.0%) had more than one treatment: 10 controls who got the message"
    )
    many = Exposure(11, 1_000, {IN_OTHER_CAMPAIGN: 5, CONTROL_CONTACTED: 6})
    assert many.is_alarming
    assert "11 of 1,000 customers (1.1%)" in many.reason
    assert "5 in another campaign of the layer, 6 controls" in many.reason
    assert "find out which tool wrote to the control, then test again" in many.reason


# -- strata ---------------------------------------------------------------------------------------


def _customers(n: int = 4_000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(5)
    stratum = rng.choice(3, n, p=[0.6, 0.3, 0.1])
    treated = rng.random(n) < np.array([0.5, 0.4, 0.6])[stratum]
    return rng.normal(10 * stratum + treated * (1 + stratum), 3), stratum, treated


def _effect(values: np.ndarray, stratum: np.ndarray, treated: np.ndarray) -> float:
    treatment = poststratified_mean(values, stratum, treated)
    return treatment - poststratified_mean(values, stratum, ~treated)


def test_strata_make_the_total_by_their_shares() -> None:
    values, stratum, treated = _customers()
    frame = pd.DataFrame({"y": values, "s": stratum, "t": treated})
    by = frame.pivot_table(index="s", columns="t", values="y", aggfunc="mean")
    shares = frame["s"].value_counts(normalize=True)
    total = float(((by[True] - by[False]) * shares).sum())
    found = _effect(values, stratum, treated)
    assert found == pytest.approx(total, rel=1e-12)
    assert differs(total, found, np.abs(values).mean()) is None
    gaps = _effect(values, stratum * 2, treated)
    assert gaps == found, "a number without customers is no stratum"


@pytest.mark.parametrize("fault", ["lost", "doubled", "moved", "equal shares", "own shares"])
def test_strata_that_do_not_make_the_total_are_told(fault: str) -> None:
    values, stratum, treated = _customers()
    total = _effect(values, stratum, treated)
    last, rows = stratum == 2, np.arange(len(stratum))
    if fault in ("lost", "doubled"):
        taken = rows[~last] if fault == "lost" else np.concatenate([rows, rows[last]])
        v, s, t = values[taken], stratum[taken], treated[taken]
        other = _effect(v, s, t)
    elif fault == "moved":
        other = _effect(values, np.where(rows < 5, 1, stratum), treated)
    else:  # each stratum alike, or each arm by its own: Simpson's paradox
        levels = [
            [values[(stratum == s) & (treated == t)].mean() for s in range(3)]
            for t in (True, False)
        ]
        own = [np.bincount(stratum[treated == t]) / (treated == t).sum() for t in (True, False)]
        if fault == "equal shares":
            own = [np.full(3, 1 / 3)] * 2
        other = float(own[0] @ levels[0] - own[1] @ levels[1])
    told = differs(other, total, np.abs(values).mean())
    assert told is not None
    assert "report it as a bug" in told


def test_a_stratum_without_an_arm_is_no_number_and_told() -> None:
    values, stratum, treated = _customers()
    treated = treated & (stratum != 2)
    found = _effect(values, stratum, treated)
    assert np.isnan(found)
    assert differs(1.0, found, 1.0) is not None
