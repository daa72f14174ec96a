"""The reading of a campaign file: by intention to treat, with its windows, gates and verdicts."""

from __future__ import annotations

import itertools
import re
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from small_shop import DAY, campaign, keys, make_shop

from ml.campaigns.assignment import assign, empty_ledger
from ml.campaigns.cohorts import build_cohort
from ml.campaigns.definition import Campaign, CampaignError
from ml.campaigns.deliveries import COLUMNS as DELIVERY_COLUMNS
from ml.campaigns.deliveries import as_messages, assigned_deliveries
from ml.campaigns.outcomes import unit_outcomes
from ml.campaigns.plan import PREDICTIONS, plan_of, read_from
from ml.campaigns.planning import plan_power
from ml.campaigns.results import COLUMNS, SCHEMA, read_out
from orchestration.tables import CAMPAIGN_OUTCOMES, CAMPAIGN_RESULTS

END = DAY + timedelta(days=30)
OUTCOME = {
    "window_days": 30,
    "return_lag_days": 10,
    "primary_metric": "retained",
    "minimum_effects": {"retained": 0.05, "revenue_amount": 1000.0},
}
SETTLED = END + timedelta(days=10)


def _scores(ledger: pd.DataFrame, **columns: Any) -> pd.DataFrame:
    base = ledger[["customer_key"]].assign(snapshot_date=ledger["assigned_date"])
    return base.assign(**dict.fromkeys(PREDICTIONS, np.nan) | columns)


def _orders(customers: list[str], day: date | None = None, **changes: Any) -> pd.DataFrame:
    """An order of each, on one day, or spread over twenty: what one day carries is looked at."""
    spread = [DAY + timedelta(days=1 + i % 20) for i in range(len(customers))]
    return pd.DataFrame(
        {
            "customer_key": customers,
            "ordered_date": day or spread,
            "revenue_amount": 20.0,
            "margin_amount": 8.0,
            "is_wholly_cancelled": False,
            **changes,
        }
    )


def _read(
    definition: Campaign, ledger: pd.DataFrame, orders: pd.DataFrame, as_of: date
) -> pd.DataFrame:
    """As the daily asset does it: outcomes of whose window has closed, then the reading."""
    closed = ledger[ledger["window_end_date"] <= as_of]
    units = unit_outcomes(
        closed,
        orders,
        as_of,
        window_days=definition.outcome.window_days,
        settle_days=definition.outcome.return_lag_days,
        contact_costs={arm: float(definition.contact_cost(arm)) for arm in definition.weights},
    )
    rows, outcomes, usable = read_from(ledger, units, _scores(ledger))
    return read_out(plan_of(definition, usable), rows, outcomes, as_of)


def _ledger(n: int = 4_000, **changes: Any) -> pd.DataFrame:
    return assign(campaign(outcome=OUTCOME, **changes), keys(n), DAY, empty_ledger())


def _row(frame: pd.DataFrame, metric: str = "retained") -> pd.Series:
    return frame[frame["metric"] == metric].iloc[0]


def _some(ledger: pd.DataFrame, arm: str, share: float) -> list[str]:
    members = list(ledger.loc[ledger["arm"] == arm, "customer_key"])
    return members[: round(len(members) * share)]


def test_the_published_table_is_the_reading() -> None:
    declared = {c.name: (c.type, c.nullable) for c in CAMPAIGN_RESULTS.columns}
    del declared["snapshot_date"]
    assert declared == {
        name: (kind.rstrip("?"), kind.endswith("?")) for name, (kind, _) in SCHEMA.items()
    }
    for column in CAMPAIGN_RESULTS.columns[1:]:
        if column.allowed is None:  # else the values stand apart, and are words of the other's text
            assert column.description == SCHEMA[column.name][1], column.name
        else:
            assert set(column.allowed) <= set(re.findall(r"\w+", SCHEMA[column.name][1]))


def test_the_published_outcomes_are_those_of_the_units() -> None:
    ledger = _ledger(50)
    units = unit_outcomes(
        ledger, _orders([]), END, window_days=30, contact_costs={"control": 0, "reminder": 0.1}
    )
    assert set(CAMPAIGN_OUTCOMES.column_names) == {"snapshot_date", *units.columns}


def test_everybody_assigned_counts_in_the_arm_they_were_assigned_to() -> None:
    ledger = _ledger()
    buyers = _some(ledger, "control", 0.2) + _some(ledger, "reminder", 0.3)
    strangers = keys(50, "not in the campaign ")
    result = _read(campaign(outcome=OUTCOME), ledger, _orders(buyers + strangers), END)
    assert list(result.columns) == COLUMNS
    row = _row(result)
    n = ledger["arm"].value_counts()
    assert (row["customer_count_arm"], row["customer_count_control"]) == (
        n["reminder"],
        n["control"],
    )
    assert row["mean_arm"] == pytest.approx(0.3, abs=1e-3)
    assert row["mean_control"] == pytest.approx(0.2, abs=1e-3)
    assert row["effect_low"] < row["effect"] < row["effect_high"]
    assert row["p_value"] == pytest.approx(
        stats.norm.sf(row["effect"] / np.sqrt(0.21 / n["reminder"] + 0.16 / n["control"])) * 2,
        rel=0.05,
    )
    assert row["role"] == "goal"
    assert _row(result, "revenue_amount")["role"] == "secondary"


def test_profit_decides_and_is_read_when_returns_have_come() -> None:
    ledger = _ledger()
    orders = _orders(_some(ledger, "reminder", 0.35) + _some(ledger, "control", 0.25))
    before, after = (
        _row(_read(campaign(outcome=OUTCOME), ledger, orders, day), "profit_amount")
        for day in (SETTLED - timedelta(days=1), SETTLED)
    )
    assert before["status"] == "window_open"
    assert pd.isna(before["effect"])
    assert after["mean_arm"] == pytest.approx(0.35 * 8 - 0.1, abs=0.02)
    assert after["decision"] == "roll_out"


@pytest.mark.parametrize(
    ("day", "counts"),
    [(DAY, False), (DAY + timedelta(days=1), True), (END, True), (END + timedelta(days=1), False)],
)
def test_the_window_is_half_open(day: date, counts: bool) -> None:
    ledger = _ledger()
    orders = _orders(_some(ledger, "reminder", 0.5), day)
    result = _read(campaign(outcome=OUTCOME), ledger, orders, END + timedelta(days=5))
    assert (_row(result)["mean_arm"] > 0) == counts


def test_nothing_is_shown_before_the_window_has_closed() -> None:
    ledger = _ledger()
    orders = _orders(_some(ledger, "reminder", 0.5))
    result = _read(campaign(outcome=OUTCOME), ledger, orders, END - timedelta(days=1))
    assert set(result["status"]) == {"window_open"}
    shown = ["mean_arm", "effect", "effect_low", "p_value", "relative_effect", "decision"]
    assert result[shown].isna().all().all()
    assert _row(_read(campaign(outcome=OUTCOME), ledger, orders, END))["status"] != "window_open"


def test_whatever_a_file_may_say_can_be_planned_and_read() -> None:
    """Looks on a profit that waits for returns were accepted, and stopped the day of the draw."""
    accepted = 0
    for days, looks, monitoring, primary, lag, guarded in itertools.product(
        (0, 1, 20),
        (1, 3),
        ("planned", "open_ended"),
        ("retained", "profit_amount"),
        (0, 14),
        (0, 1),
    ):
        outcome = {
            "window_days": 5,
            "return_lag_days": lag,
            "primary_metric": primary,
            "metrics": [primary, "revenue_amount", "average_order_amount"],
            "minimum_effects": {primary: 1.0},
            "guardrails": [{"metric": "average_order_amount", "margin": 1.0}] * guarded,
            "looks": looks,
            "monitoring": monitoring,
            "planned_customers": 200,
        }
        try:
            of = campaign(outcome=outcome, end_date=DAY + timedelta(days=days))
        except CampaignError:
            continue
        accepted += 1
        plan = plan_of(of)
        assert len(plan.looks) == min(looks, days + 1) - 1
        ledger = assign(of, keys(200), DAY, empty_ledger())
        for day in (*plan.looks[:1], of.settled_date):
            read = _read(of, ledger, _orders(list(ledger["customer_key"][::3])), day)
            assert set(read["metric"]) == {*outcome["metrics"], "profit_amount"}  # type: ignore[misc]
    assert accepted == 2 * 2 * 2 * (1 + 2 + 2 + 1 + 1)


def test_a_window_stays_open_for_those_who_may_still_be_enrolled() -> None:
    definition = campaign(outcome=OUTCOME, end_date=DAY + timedelta(days=4))
    first = assign(definition, keys(500), DAY, empty_ledger())
    assert set(_read(definition, first, _orders([]), END)["status"]) == {"window_open"}


def test_interim_looks_see_only_closed_windows_and_keep_the_error() -> None:
    looks = OUTCOME | {"looks": 2, "planned_customers": 3_800}
    definition = campaign(outcome=looks, end_date=DAY + timedelta(days=9))
    ledger = empty_ledger()
    for n in range(10):
        day = DAY + timedelta(days=n)
        new = assign(definition, keys(400 * (n + 1)), day, ledger)
        ledger = pd.concat([ledger, new], ignore_index=True)
    plan = plan_of(definition)
    assert plan.looks == (END + timedelta(days=4),)
    orders = _orders(_some(ledger, "reminder", 0.3) + _some(ledger, "control", 0.2))
    orders["ordered_date"] = DAY + timedelta(days=20)
    result = _read(definition, ledger, orders, plan.looks[0])
    row = _row(result)
    assert (row["look"], row["is_final"]) == (1, False)
    assert row["customer_count_arm"] < row["assigned_count_arm"]
    assert row["information_fraction"] == pytest.approx(0.5, abs=0.05)
    assert row["boundary_z"] > 2.5, "half of the information costs more than 1.96"


def test_every_metric_has_the_looks_that_power_is_planned_for() -> None:
    """Beside a goal that waits 30 days for returns, one that does not is looked at as often."""
    both = {"metrics": ["retained", "profit_amount"], "goals": ["profit_amount"]}
    effects = {"retained": 0.02, "profit_amount": 1.0}
    outcome = OUTCOME | both | {"minimum_effects": effects, "return_lag_days": 30}
    outcome |= {"looks": 4, "planned_customers": 400}
    definition = campaign(outcome=outcome, end_date=DAY + timedelta(days=27))
    plan, ledger = plan_of(definition), empty_ledger()
    for n in range(28):
        known = keys(20 * (n + 1))
        new = assign(definition, known, DAY + timedelta(days=n), ledger)
        ledger = pd.concat([ledger, new], ignore_index=True)
    read = _read(definition, ledger, _orders(keys(560)[::3]), definition.settled_date)
    read = read[read["arm"].eq("reminder")]
    rng = np.random.default_rng(2)
    history = pd.DataFrame({"retained": rng.random(400) < 0.3, "profit_amount": rng.random(400)})
    power = plan_power(plan, history, 400).drop_duplicates("metric").set_index("metric")
    for goal in both["metrics"]:
        own = read[read["metric"].eq(goal)]
        assert power.loc[goal, "look_count"] == len(own) == 4
        assert own["information_fraction"].to_numpy() == pytest.approx(
            [0.25, 0.5, 0.75, 1], abs=0.05
        )
    first = read[read["look"].eq(1)].set_index("metric")["look_date"]
    assert first["profit_amount"] - first["retained"] == timedelta(days=30)


def test_each_customer_has_a_window_of_their_own() -> None:
    definition = campaign(outcome=OUTCOME, end_date=DAY + timedelta(days=4))
    first = assign(definition, keys(1_000), DAY, empty_ledger())
    last_day = DAY + timedelta(days=4)
    ledger = pd.concat([first, assign(definition, keys(2_000), last_day, first)])
    orders = _orders(list(ledger["customer_key"]), DAY + timedelta(days=2))
    row = _row(_read(definition, ledger, orders, END + timedelta(days=4)))
    in_arm = ledger[ledger["arm"] == "reminder"]
    assert row["mean_arm"] == pytest.approx((in_arm["assigned_date"] == DAY).mean())


def test_lost_customers_trip_the_sample_ratio_check_and_hide_the_effects() -> None:
    ledger = _ledger(40_000)
    lost = _some(ledger, "reminder", 0.05)
    kept = ledger[~ledger["customer_key"].isin(lost)]
    result = _read(campaign(outcome=OUTCOME), kept, _orders([]), END)
    read = result[result["status"] != "window_open"]
    assert set(read["status"]) == {"invalid"}
    assert (read["srm_p_assigned"] < 0.001).all()
    assert read["effect"].isna().all()


def test_order_of_rows_and_later_knowledge_do_not_matter() -> None:
    ledger = _ledger()
    buyers = _some(ledger, "reminder", 0.4)
    orders = pd.concat([_orders(buyers), _orders(buyers, END + timedelta(days=1))])
    first = _read(campaign(outcome=OUTCOME), ledger, orders, END)
    again = _read(
        campaign(outcome=OUTCOME),
        ledger.sample(frac=1, random_state=1),
        orders.sample(frac=1, random_state=2),
        END,
    )
    pd.testing.assert_frame_equal(first, again)


ARMS = [
    {"name": "control", "weight": 0.4, "play": "none"},
    {"name": "reminder", "weight": 0.3, "play": "reminder"},
    {"name": "coupon", "weight": 0.3, "play": "coupon", "discount_amount": 10},
]


def test_what_a_discount_gives_to_would_be_buyers_is_told() -> None:
    definition = campaign(outcome=OUTCOME, arms=ARMS)
    ledger = assign(definition, keys(6_000), DAY, empty_ledger())
    plan = plan_of(definition)
    assert plan.baseline == {"coupon": "reminder"}
    redeemed = _some(ledger, "coupon", 0.3)
    orders = pd.concat(
        [
            _orders(_some(ledger, "control", 0.1)),
            _orders(_some(ledger, "reminder", 0.2)),
            _orders(redeemed, discount_amount=10.0),
        ]
    ).fillna({"discount_amount": 0.0})
    result = _read(definition, ledger, orders, SETTLED)
    row = result[(result["arm"] == "coupon") & (result["metric"] == "profit_amount")].iloc[0]
    # Two thirds of the coupons went to customers whom a plain reminder would have moved as well.
    given = row["given_to_would_be_buyers"]
    assert given == pytest.approx(len(redeemed) * 10 * 2 / 3, rel=0.01)


def test_guardrails_and_strata_come_from_the_file_and_the_ledger() -> None:
    guarded = OUTCOME | {"guardrails": [{"metric": "revenue_amount", "margin": 2.0}]}
    definition = campaign(outcome=guarded, audience=[])
    shop = make_shop(3_000)
    ledger, _ = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    orders = _orders(_some(ledger, "reminder", 0.3) + _some(ledger, "control", 0.3))
    row = _row(_read(definition, ledger, orders, END), "revenue_amount")
    assert (row["role"], row["non_inferiority_margin"]) == ("guardrail", 2.0)
    assert row["guardrail_verdict"] == "non_inferior"
    assert "poststrat" in row["method"]


def test_goals_caps_and_monitoring_come_from_the_file() -> None:
    outcome = OUTCOME | {
        "metrics": ["retained", "order_count", "revenue_amount"],
        "goals": ["order_count"],
        "minimum_effects": {"retained": 0.05, "order_count": 0.1},
        "winsorise": {"revenue_amount": 0.99},
        "guardrails": [{"metric": "revenue_amount", "margin": 1.0}],
        "monitoring": "open_ended",
        "planned_customers": 4_000,
    }
    of = campaign(outcome=outcome, end_date=DAY + timedelta(days=9))
    plan = plan_of(of)
    roles = {metric.name: metric.role for metric in plan.metrics}
    assert roles == {
        "retained": "goal",
        "order_count": "goal",
        "revenue_amount": "guardrail",
        "profit_amount": "secondary",
    }
    assert {metric.name: metric.winsorise for metric in plan.metrics if metric.winsorise} == {
        "revenue_amount": 0.99
    }
    assert (plan.monitoring, plan.planned_customers) == ("open_ended", 4_000)
    # one day after the first window has closed it may be read, as often as one likes
    first = assign(of, keys(2_000), DAY, empty_ledger())
    orders = _orders(_some(first, "reminder", 0.4) + _some(first, "control", 0.2))
    read = _read(of, first, orders, END + timedelta(days=1)).set_index("metric")
    assert read.loc[["retained", "order_count"], "p_value"].notna().all()
    assert not read["is_final"].any()
    assert read.loc["retained", "p_value_adjusted"] >= read.loc["retained", "p_value"]
    assert read.loc["profit_amount", "status"] == "window_open", "returns are still to come"
    # without these fields a file says what it said before they were there
    assert (
        campaign(outcome=OUTCOME).config_sha256
        == campaign(
            outcome=OUTCOME | {"goals": [], "winsorise": {}, "monitoring": "planned"}
        ).config_sha256
    )


def test_the_covariate_is_of_the_day_of_assignment_and_knows_no_arm() -> None:
    definition = campaign(outcome=OUTCOME, end_date=DAY + timedelta(days=1))
    first = assign(definition, keys(300), DAY, empty_ledger())
    second = assign(definition, keys(600), DAY + timedelta(days=1), first)
    ledger = pd.concat([first, second], ignore_index=True)
    units = ledger[["customer_key"]]
    both = pd.concat(
        [
            _scores(ledger, churn_probability=0.1).assign(snapshot_date=DAY),
            _scores(ledger, churn_probability=0.9).assign(snapshot_date=DAY + timedelta(days=1)),
        ]
    )
    rows, joined, usable = read_from(ledger, units, both)
    assert usable == {"churn_probability"}, "nobody has an expected margin"
    own = joined.set_index("customer_key")["churn_probability"]
    assert (own[first["customer_key"]] == 0.1).all()
    assert (own[second["customer_key"]] == 0.9).all()
    assert (rows["covariates_date"] == rows["assigned_date"]).all()
    # Whom the model did not score gets what the others have on average.
    _, joined, _ = read_from(ledger, units, both[both["customer_key"] != ledger["customer_key"][0]])
    mean = own.drop(ledger["customer_key"][0]).mean()
    assert joined["churn_probability"].iloc[0] == pytest.approx(mean)
    # What most have not is no covariate: the mean of a few would stand for the many.
    few = both[both["customer_key"].isin(ledger["customer_key"].iloc[:200])]
    assert read_from(ledger, units, few)[2] == frozenset()


def test_a_ratio_is_of_orders_and_tested_by_customers() -> None:
    definition = campaign(
        outcome=OUTCOME
        | {
            "metrics": ["retained", "average_order_amount"],
            "guardrails": [{"metric": "average_order_amount", "margin": 2.0}],
        }
    )
    ledger = _ledger(4_000)
    orders = pd.concat(
        [
            _orders(_some(ledger, "reminder", 0.5), revenue_amount=18.0),
            _orders(_some(ledger, "reminder", 0.2), revenue_amount=30.0),
            _orders(_some(ledger, "control", 0.4), revenue_amount=20.0),
        ]
    )
    row = _row(_read(definition, ledger, orders, SETTLED), "average_order_amount")
    assert row["method"] == "ratio_delta"
    assert row["mean_arm"] == pytest.approx((0.5 * 18 + 0.2 * 30) / 0.7, rel=1e-2)
    assert row["mean_control"] == pytest.approx(20)
    assert row["guardrail_verdict"] == "non_inferior"
    assert np.isnan(row["incremental_total"]), "a ratio adds up to nothing"


def test_the_covariate_is_the_forecast_of_the_metrics_own_kind_where_there_is_one() -> None:
    definition = campaign(outcome=OUTCOME | {"metrics": ["retained", "revenue_amount"]})

    def used(*known: str) -> dict[str, str | None]:
        plan = plan_of(definition, frozenset(known))
        return {metric.name: metric.covariate for metric in plan.metrics}

    assert used("churn_probability", "purchase_probability_30d", "expected_margin_amount_30d") == {
        "retained": "purchase_probability_30d",
        "revenue_amount": None,
        "profit_amount": "expected_margin_amount_30d",
    }
    assert used("churn_probability", "expected_margin_amount") == {
        "retained": "churn_probability",
        "revenue_amount": "expected_margin_amount",
        "profit_amount": "expected_margin_amount",
    }
    assert set(used().values()) == {None}


def test_a_ratio_is_adjusted_by_a_foretold_ratio_or_by_nothing() -> None:
    definition = campaign(outcome=OUTCOME | {"metrics": ["retained", "average_order_amount"]})

    def used(*known: str) -> tuple[str | None, str | None]:
        plan = plan_of(definition, frozenset(known))
        metric = next(m for m in plan.metrics if m.name == "average_order_amount")
        return metric.covariate, metric.covariate_per

    both = ("expected_revenue_amount_30d", "expected_order_count_30d")
    assert used(*both) == both
    for one in both:
        assert used(one, "churn_probability", "expected_margin_amount") == (None, None)
    ledger = _ledger(2_000)
    orders = _orders(_some(ledger, "reminder", 0.5) + _some(ledger, "control", 0.4))
    orders["revenue_amount"] = [10.0 + i % 7 for i in range(len(orders))]
    units = unit_outcomes(
        ledger, orders, END, window_days=30, contact_costs={"control": 0, "reminder": 0.1}
    )
    foretold = {name: np.arange(len(ledger)) % (5 + len(name)) + 1.0 for name in both}
    rows, outcomes, usable = read_from(ledger, units, _scores(ledger, **foretold))
    row = _row(read_out(plan_of(definition, usable), rows, outcomes, END), "average_order_amount")
    assert row["method"] == "ratio_cuped"
    assert 0 <= row["balance_p_value"] <= 1


def _messages(ledger: pd.DataFrame, **changes: Any) -> pd.DataFrame:
    sent = pd.Timestamp(DAY + timedelta(days=1), tz="UTC") + pd.Timedelta(hours=9)
    return pd.DataFrame(
        {
            "snapshot_date": DAY + timedelta(days=1),
            "campaign_id": "winback_1",
            "customer_key": ledger["customer_key"],
            "channel": "email",
            "sent_at": sent,
            "sent_date": DAY + timedelta(days=1),
            "status": "delivered",
            **dict.fromkeys(("opened_at", "clicked_at"), pd.to_datetime(pd.NaT, utc=True)),
            "cost_amount": 0.1,
            "arm": None,
            **changes,
        }
    )


def test_messages_carry_the_arm_and_leaks_are_seen() -> None:
    ledger = _ledger(200)
    messages = _messages(ledger)
    messages.loc[0, "status"] = "bounced"
    messages["opened_at"] = messages["sent_at"].where(messages.index == 1)
    strangers = _messages(pd.DataFrame({"customer_key": keys(3, "nobody")}))
    others = _messages(ledger, campaign_id="newsletter")
    found = assigned_deliveries(pd.concat([messages, strangers, others]), ledger)
    assert list(found.columns) == DELIVERY_COLUMNS
    assert len(found) == len(ledger) + 3
    assert found["arm"].isna().sum() == 3
    assert found["is_control"].eq(True).sum() == ledger["is_control"].sum()
    assert (found["is_bounced"].sum(), found["is_opened"].sum()) == (1, 1)
    assert found["is_other_arm"].isna().all(), "no message says whose it was"


def test_a_message_of_another_arm_is_seen_where_the_tool_says_whose_it_was() -> None:
    ledger = _ledger(200)
    treated = ledger[~ledger["is_control"].astype(bool)].reset_index(drop=True)
    told = _messages(treated, arm=treated["arm"].mask(treated.index < 7, "another"))
    told.loc[10, "arm"] = None
    strangers = _messages(pd.DataFrame({"customer_key": keys(3, "nobody")}), arm="reminder")
    found = assigned_deliveries(pd.concat([told, strangers]), ledger)
    assert found["is_other_arm"].eq(True).sum() == 7
    assert found["is_other_arm"].isna().sum() == 1 + 3
    assert found["sent_arm"].isna().sum() == 1
    assert (found.loc[found["is_other_arm"].eq(True), "arm"] == "reminder").all()


def test_a_message_is_taken_in_its_last_known_state() -> None:
    ledger = _ledger(50)
    sent = _messages(ledger)
    later = _messages(ledger, status="bounced", snapshot_date=DAY + timedelta(days=2))
    last = as_messages(pd.concat([later, sent]))
    assert len(last) == len(ledger)
    assert last["bounced_at"].notna().all()
    assert as_messages(sent)["bounced_at"].isna().all()
