"""What campaigns take from the lake: forecasts only, as registered, and of refused days nothing."""

from __future__ import annotations

from datetime import date, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest
from small_tables import filled, key, put

from ml.campaigns.definition import Campaign, parse_campaign
from orchestration.cli import main
from orchestration.defs.campaigns import assets, policy
from orchestration.defs.campaigns.files import DEFAULT_PLAYS, PLAYS, register
from orchestration.defs.campaigns.launch import launch_of
from orchestration.defs.campaigns.reading import forecasts_on
from orchestration.defs.daily import Run, daily_partitions
from orchestration.defs.scores.assets import list_of
from orchestration.defs.uplift import assets as uplift
from orchestration.resources.catalog import Audit
from orchestration.resources.lake import Lake
from orchestration.resources.platform import Platform
from orchestration.tables import (
    CAMPAIGN_ASSIGNMENTS,
    CAMPAIGN_COHORTS,
    CAMPAIGN_OUTCOMES,
    CAMPAIGN_RESULTS,
    CHURN_SCORES,
    CUSTOMER_SEGMENTS,
    CUSTOMER_VALUE,
    OFFER_POLICY,
    UPLIFT_SCORES,
    mart_tables,
)

if TYPE_CHECKING:
    from expectations.schema import Table
    from orchestration.resources.home import Home

DAY = date(2024, 3, 5)
N = 200
CAMPAIGN = f"""
id: winback
name: Win back
objective: Does a reminder bring customers back?
approver: Ada
start_date: {DAY}
channels: [email]
arms:
  - {{name: control, weight: 0.5, play: none}}
  - {{name: reminder, weight: 0.5, play: reminder}}
control_arm: control
audience: [{{field: lifecycle, operator: "=", value: active}}]
outcome: {{window_days: 2, primary_metric: retained, minimum_effects: {{retained: 0.05}}}}
contact_cost_amount: 0.1
"""


@pytest.fixture
def run(home: Home, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run in a home with the campaign and nothing published."""
    monkeypatch.setenv("HOLDFAST_SECRET", "a-simulated-shop-has-no-secrets")
    (home.campaigns / "winback.yaml").write_text(CAMPAIGN)
    return Run(Platform(root=str(home.root)), [DAY], "run", lambda text: None)


def campaign_of(text: str = CAMPAIGN) -> Campaign:
    return parse_campaign(text, "winback.yaml")


def scores(day: date, *, is_rescore: bool) -> pd.DataFrame:
    """The risk of each customer; the odd ones are at risk."""
    return filled(
        CHURN_SCORES,
        N,
        snapshot_date=day,
        churn_probability=[0.1 + 0.5 * (i % 2) + i / 1e4 for i in range(N)],
        expected_margin_amount=[1.0 + i for i in range(N)],
        margin_at_risk_amount=[0.5 + i / 2 for i in range(N)],
        risk_band="high",
        is_rescore=is_rescore,
    )


def ledger(campaign: Campaign, day: date = DAY) -> pd.DataFrame:
    """Everybody, drawn on `day`, arms by turns of two."""
    return filled(
        CAMPAIGN_ASSIGNMENTS,
        N,
        assigned_date=day,
        snapshot_date=day,
        campaign_id=campaign.id,
        arm=[("control", "reminder")[i // 2 % 2] for i in range(N)],
        weights_json='{"control": 0.5, "reminder": 0.5}',
        propensity=0.5,
        config_sha256=campaign.config_sha256,
        window_end_date=day + timedelta(days=campaign.outcome.window_days),
        value_tier="high",
        launch_power="ok",
    )


def outcomes(drawn: pd.DataFrame) -> pd.DataFrame:
    """Who is at risk does not buy, but for one in five."""
    bought = [int((i % 2 == 0) != (i % 5 == 0)) for i in range(len(drawn))]
    end = drawn["window_end_date"].iloc[0]
    shared = drawn[["customer_key", "campaign_id", "arm", "assigned_date", "window_end_date"]]
    return filled(
        CAMPAIGN_OUTCOMES,
        len(drawn),
        **{str(name): shared[name] for name in shared},
        snapshot_date=end,
        settled_date=end,
        retained=bought,
        order_count=bought,
    )


def publish_customers(run: Run, day: date, **more: object) -> None:
    """Status, scores and segments of a day, on which everybody may be drawn; `more` of status."""
    lake, status = run.platform.lake, mart_tables()["customer_status"]
    consents = {c.name: True for c in status.columns if c.name.endswith("_consent")}
    counts = {c.name: 0 for c in status.columns if "_count" in c.name and c.type == "integer"}
    shared: dict[str, object] = {"snapshot_date": day}
    own = {"lifecycle": "active", "account_type": "consumer", "days_since_last_order": 60}
    values = {**shared, **own, **consents, **counts, **more}
    put(lake, status, day, filled(status, N, **values))
    put(lake, CHURN_SCORES, day, scores(day, is_rescore=False))
    put(lake, CUSTOMER_SEGMENTS, day, filled(CUSTOMER_SEGMENTS, N, **shared))


def test_a_slip_in_a_purpose_is_told_where_one_looks(
    run: Run, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the plays in the list's metadata, of a campaign in the ledger's and before the start."""
    publish_customers(run, DAY, other_consents="email:service", open_ticket_count=1)
    features = mart_tables()["customer_features"]
    put(run.platform.lake, features, DAY, filled(features, N, snapshot_date=DAY))
    own = DEFAULT_PLAYS.read_text(encoding="utf-8")
    assert "# purposes: {service_call: service}" in own

    def listed(purpose: str) -> tuple[dict[str, Any], list[str]]:
        text = own.replace("# purposes: {service_call: service}", purpose)
        (home.root / PLAYS).write_text(text)
        warned: list[str] = []
        again = Run(run.platform, [DAY], "run", lambda text: None, {}, warned.append)
        return dict(list_of(again, DAY).metadata), warned

    told, warned = listed("purposes: {service_call: service}")
    assert told["play_service_call"] == told["customers_listed"] > 0
    assert told["play_coupon"] == told["play_personal_call"] == 0, "of none, too"
    assert not warned
    assert not [name for name in told if "WARNING" in name]
    told, warned = listed("purposes: {service_call: sevice}")
    assert told["play_service_call"] == 0
    assert told["play_reminder"] > 0, "the next rule that is allowed"
    assert "did you mean 'service'?" in told["WARNING purposes.service_call"]
    assert warned == [f"plays.yaml: purposes.service_call: {told['WARNING purposes.service_call']}"]

    (home.campaigns / "winback.yaml").write_text(CAMPAIGN + "purpose: sevice\n")
    drawn = assets._enrol(run, DAY, lambda: filled(CAMPAIGN_ASSIGNMENTS, 0))
    assert drawn.rows.empty
    assert "did you mean 'service'?" in str(drawn.launched()["WARNING winback purpose"])
    monkeypatch.setenv("HOLDFAST_HOME", str(home.root))
    assert main(["campaign", "winback", "--plan"]) == 0
    assert "  WARNING: nobody consents to the purpose 'sevice'" in capsys.readouterr().out


def test_results_are_told_of_campaigns_that_have_some(
    run: Run, home: Home, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(home.root))

    def told(*arguments: str) -> tuple[int, str]:
        code, said = main(["campaign", *arguments, "--results"]), capsys.readouterr()
        return code, said.out + said.err

    assert told("winback") == (1, "HomeError: no campaign has results yet\n")
    read = filled(CAMPAIGN_RESULTS, 1, snapshot_date=DAY, campaign_id="winback", arm="reminder")
    read = read.assign(
        metric="profit_amount", look_date=DAY, role="goal", status="ok", reason="it is a test"
    )
    put(run.platform.lake, CAMPAIGN_RESULTS, DAY, read)
    code, text = told("winback")
    assert code == 0
    assert text.startswith(
        f"winback, as known at the end of {DAY}\n\n- **reminder on profit_amount"
    )
    words = f"'nope' has no results up to {DAY}; these have: winback"
    assert told("nope") == (1, f"HomeError: {words}\n")
    before = DAY - timedelta(days=1)
    words = f"no campaign has results up to {before}"
    assert told("winback", "--day", str(before)) == (1, f"HomeError: {words}\n")


def test_a_refused_day_is_closed_and_says_so_whatever_the_file_says_later(
    run: Run, home: Home
) -> None:
    """Without a history the campaign is refused; `mark` alone does not open the day again."""
    publish_customers(run, DAY)
    lake = run.platform.lake
    empty = filled(CAMPAIGN_ASSIGNMENTS, 0)

    def enrol() -> assets._Enrolment:
        again = Run(run.platform, [DAY], "run", lambda text: None)
        return assets._enrol(again, DAY, lambda: empty)

    first = enrol()
    assert str(first.launched()["winback launch"]).startswith("refused: ")
    put(lake, CAMPAIGN_ASSIGNMENTS, DAY, empty)
    closed = enrol()
    assert str(closed.launched()["winback launch"]).startswith("refused: ")
    assert set(closed.cohort["exclusion_reason"]) == {"underpowered", "global_holdout"}
    (home.campaigns / "winback.yaml").write_text(CAMPAIGN + "if_underpowered: mark\n")
    marked = enrol()
    assert marked.rows.empty
    assert set(marked.cohort["exclusion_reason"]) == {"day_closed", "global_holdout"}
    said = marked.launched()
    assert str(said["winback launch"]).startswith("closed: ")
    assert "`start_date` to come" in str(said["winback launch"])
    assert "winback power" not in said, "no verdict is shown as if it had started"
    # the remedy that is told works
    next_day = DAY + timedelta(days=1)
    publish_customers(run, next_day)
    text = CAMPAIGN.replace(str(DAY), str(next_day)) + "if_underpowered: mark\n"
    (home.campaigns / "winback.yaml").write_text(text)
    later = Run(run.platform, [next_day], "run", lambda text: None)
    started = assets._enrol(later, next_day, lambda: empty)
    assert len(started.rows) > N / 2
    assert set(started.rows["launch_power"]) == {"unknown"}


def test_a_score_that_knew_the_future_is_no_forecast(run: Run) -> None:
    lake, next_day = run.platform.lake, DAY + timedelta(days=1)
    put(lake, CHURN_SCORES, DAY, scores(DAY, is_rescore=True))
    put(lake, CHURN_SCORES, next_day, scores(next_day, is_rescore=False))
    found = forecasts_on(run, [DAY, next_day], ["churn_probability"])
    assert set(found["snapshot_date"]) == {next_day}
    assert list(found.columns) == ["snapshot_date", "customer_key", "churn_probability"]
    assert len(forecasts_on(run, [DAY], ["churn_probability"])) == 0
    both = ["churn_probability", "purchase_probability_30d"]
    for days in ([], [DAY], [next_day]):  # of value nothing is published yet
        found = forecasts_on(run, days, both)
        assert list(found.columns) == ["snapshot_date", "customer_key", *both]
        assert len(found) == (N if days == [next_day] else 0)
    # the other table of forecasts, with customers whom nobody scores for churn
    for day, is_rescore in ((DAY, False), (next_day, True)):
        value = filled(CUSTOMER_VALUE, N + 1, snapshot_date=day, purchase_probability_30d=0.5)
        put(lake, CUSTOMER_VALUE, day, value.assign(is_rescore=is_rescore))
    found = forecasts_on(run, [DAY, next_day], both)
    known = found.groupby("snapshot_date").count()
    assert known["churn_probability"].to_dict() == {DAY: 0, next_day: N}
    assert known["purchase_probability_30d"].to_dict() == {DAY: N + 1, next_day: 0}


@pytest.mark.parametrize(("is_rescore", "method"), [(False, "cuped"), (True, "proportion")])
def test_results_are_adjusted_by_forecasts_only(run: Run, is_rescore: bool, method: str) -> None:
    """The same scores, made before the outcome or after it: only the first may explain it."""
    campaign, lake = campaign_of(), run.platform.lake
    put(lake, CHURN_SCORES, DAY, scores(DAY, is_rescore=is_rescore))
    drawn = ledger(campaign)
    end = drawn["window_end_date"].iloc[0]
    put(lake, CAMPAIGN_OUTCOMES, end, outcomes(drawn))
    read = assets._readings(run, campaign, drawn, end).set_index("metric")
    assert read.loc["retained", "method"] == method
    assert (read.loc["retained", "theta"] != 0) is not is_rescore
    assert read.loc["retained", "customer_count_control"] == N / 2
    assert read["srm_p_eligible"].isna().all(), "no cohort is published"
    cohort = filled(
        CAMPAIGN_COHORTS, N, snapshot_date=DAY, campaign_id=campaign.id, is_eligible=True
    )
    put(lake, CAMPAIGN_COHORTS, DAY, cohort)
    again = Run(run.platform, [end], "run", lambda text: None)
    read = assets._readings(again, campaign, drawn, end).set_index("metric")
    assert read.loc["retained", "srm_p_eligible"] > 0.001


def test_who_is_eligible_is_read_a_day_at_a_time_once_for_all_campaigns(
    run: Run, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100 pass on each of three days, 20 from the second on, 10 on the third; others never."""
    lake, days = run.platform.lake, [DAY + timedelta(days=n) for n in range(3)]
    text = CAMPAIGN + f"end_date: {days[2]}\n"
    both = [campaign_of(text), campaign_of(text.replace("id: winback", "id: another"))]
    drawn = {campaign.id: ledger(campaign)[:10] for campaign in both}
    put(lake, CAMPAIGN_ASSIGNMENTS, DAY, pd.concat(drawn.values()))
    register(home, both, pd.concat(drawn.values()))
    for day, passing in zip(days, (100, 120, 130), strict=True):
        reasons = ["outside_coverage"] * passing + ["no_consent"] * (N - passing)
        shared: dict[str, Any] = {"snapshot_date": day, "exclusion_reason": reasons}
        cohorts = [
            filled(CAMPAIGN_COHORTS, N, **shared, is_eligible=False, campaign_id=campaign.id)
            for campaign in both
        ]
        put(lake, CAMPAIGN_COHORTS, day, pd.concat(cohorts))
    reads: list[list[date]] = []
    read = Lake.read

    def spied(self: Lake, table: Table, days: Any = None, *rest: Any, **named: Any) -> Any:
        if table is CAMPAIGN_COHORTS:
            reads.append(list(days))
        return read(self, table, days, *rest, **named)

    monkeypatch.setattr(Lake, "read", spied)
    for day, firsts in ((days[1], [100, 20]), (days[2], [100, 20, 10]), (days[1], [100, 20])):
        for campaign in both:
            found = assets._eligible(run, campaign, drawn[campaign.id], day)
            assert found is not None
            assert found["assigned_date"].value_counts().tolist() == firsts
            assert found["customer_key"].is_unique
    assert reads == [[day] for day in days], "a day at a time, once a run"


@pytest.mark.parametrize(
    "edit",
    [
        ("window_days: 2", "window_days: 90"),
        ("name: reminder", "name: postcard"),
        ("id: winback", "id: winback\nversion: 2"),
    ],
)
def test_what_is_learnt_follows_the_campaign_as_it_was_drawn(
    run: Run, home: Home, monkeypatch: pytest.MonkeyPatch, edit: tuple[str, str]
) -> None:
    """A file that was edited after the draw, or has a newer version, changes nothing."""
    campaign, lake = campaign_of(), run.platform.lake
    drawn = ledger(campaign)
    put(lake, CAMPAIGN_ASSIGNMENTS, DAY, drawn)
    register(home, [campaign], drawn)
    assert edit[0] in CAMPAIGN
    (home.campaigns / "winback.yaml").write_text(CAMPAIGN.replace(*edit))
    end = campaign.settled_date
    features = mart_tables()["customer_features"]
    put(lake, features, end, filled(features, N, snapshot_date=end))
    put(lake, CUSTOMER_SEGMENTS, DAY, filled(CUSTOMER_SEGMENTS, N, snapshot_date=DAY))
    monkeypatch.setattr(uplift, "daily_asset", lambda *_, **__: lambda make: make)
    made: list[Any] = uplift.uplift_assets(daily_partitions(home.shop))
    learn, advise = made
    taught = learn(Run(run.platform, [end], "run", lambda text: None), end)
    assert "500 are needed" in taught.metadata["winback reminder reason"]
    advice = advise(Run(run.platform, [DAY], "run", lambda text: None), DAY)
    assert set(advice.frame["campaign_id"]) == {"winback"}
    assert set(advice.frame["arm"]) == {"control", "reminder"}


def publish_offers(run: Run) -> Campaign:
    """A campaign in the ledger, and scores by which half of the customers are worth a contact."""
    campaign, lake = campaign_of(), run.platform.lake
    publish_customers(run, DAY)
    before = DAY - timedelta(days=3)
    put(lake, CAMPAIGN_ASSIGNMENTS, before, ledger(campaign, before).head(1))
    profits = [i - N / 2 for i in range(N)]
    scored = filled(
        UPLIFT_SCORES,
        N,
        snapshot_date=DAY,
        campaign_id=campaign.id,
        arm="reminder",
        expected_profit_amount=profits,
    )
    put(lake, UPLIFT_SCORES, DAY, scored)
    return campaign


def asked_for_contacts(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *limits: str
) -> tuple[int, str, str]:
    """The command: its exit code, what it printed, what it said of errors."""
    monkeypatch.setenv("HOLDFAST_HOME", str(run.platform.home.root))
    code = main(["contacts", *limits])
    said = capsys.readouterr()
    return code, said.out, said.err


def test_limits_that_leave_no_room_for_the_random_slice_are_told_in_words(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_offers(run)
    ask = partial(asked_for_contacts, run, monkeypatch, capsys)
    code, out, _ = ask("--budget", "20", "--explore", "0.1")
    assert code == 0
    assert "customers may be contacted" in out
    for limits in (("--budget", "0.5", "--explore", "0.5"), ("--explore", "1"), ("--budget", "-1")):
        code, _, err = ask(*limits)
        assert code == 1
        assert err.startswith("TargetingError: ")


def test_contacts_are_planned_only_from_what_may_be_used(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A newest audit that failed refuses, as it does everything else that is made of a day."""
    publish_offers(run)
    audit = Audit(UPLIFT_SCORES.name, str(DAY), "", "", "1", 1, 1, False, ("ranks twice",), "run")
    run.platform.lake.catalog.record_audits([audit])
    code, _, err = asked_for_contacts(run, monkeypatch, capsys)
    assert code == 1
    assert err.startswith("NotPublishedError: uplift_scores of 2024-03-05: audit ")


def test_contacts_of_a_campaign_that_is_gone_name_it(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    publish_offers(run)
    (run.platform.home.campaigns / "winback.yaml").unlink()
    code, _, err = asked_for_contacts(run, monkeypatch, capsys)
    assert code == 1
    assert err.startswith("HomeError: winback: scored on 2024-03-05")


def publish_facts(run: Run, day: date) -> None:
    """One order of every third customer, and no message."""
    tables = mart_tables()
    bought = [key(i) for i in range(0, N, 3)]
    orders = filled(
        tables["orders"],
        len(bought),
        customer_key=bought,
        order_id=[f"{day} {i}" for i in range(len(bought))],
        snapshot_date=day,
        ordered_date=day,
    )
    put(run.platform.lake, tables["orders"], day, orders)
    put(run.platform.lake, tables["deliveries"], day, filled(tables["deliveries"], 0))


@pytest.mark.parametrize("table", ["customer_status", "orders"])
def test_an_old_day_that_was_refused_stops_no_campaign_of_today(run: Run, table: str) -> None:
    """The history is an earlier day; where there is none it is told why, and others still draw."""
    lake, window = run.platform.lake, timedelta(days=2)
    begin, earlier = DAY - window, DAY - window - timedelta(days=1)
    for day in (earlier, begin, DAY):
        publish_customers(run, day)
    for n in range(5):
        publish_facts(run, DAY - timedelta(days=n))
    campaign, drawn = campaign_of(), filled(CAMPAIGN_ASSIGNMENTS, 0)
    judged = launch_of(run, campaign, N, DAY, drawn)
    assert judged.power == "underpowered"
    at = begin if table == "customer_status" else DAY
    bad = Audit(table, str(at), "", "", "1", 1, 1, False, ("not plausible",), "run")
    lake.catalog.record_audits([bad])
    again = launch_of(run, campaign, N, DAY, drawn)
    assert again.power == "underpowered", "an earlier day is whole"
    older = Audit("customer_status", str(earlier), "", "", "1", 1, 1, False, ("worse",), "run")
    lake.catalog.record_audits([older])
    none = launch_of(run, campaign, N, DAY, drawn)
    assert none.power == "unknown"
    assert "there is no history" in none.reason
    assert "not plausible" in none.reason


@pytest.mark.parametrize(
    ("field", "is_rescore", "is_told"),
    [("risk_band", True, True), ("risk_band", False, False), ("lifecycle", True, False)],
)
def test_a_history_that_was_chosen_by_later_scores_says_so(
    run: Run, field: str, is_rescore: bool, is_told: bool
) -> None:
    begin = DAY - timedelta(days=2)
    publish_customers(run, begin)
    put(run.platform.lake, CHURN_SCORES, begin, scores(begin, is_rescore=is_rescore))
    for n in range(3):
        publish_facts(run, DAY - timedelta(days=n))
    text = CAMPAIGN.replace("field: lifecycle", f"field: {field}")
    text = text.replace("value: active", f"value: {'high' if field == 'risk_band' else 'active'}")
    judged = launch_of(run, campaign_of(text), N, DAY, filled(CAMPAIGN_ASSIGNMENTS, 0))
    assert len(judged.table)
    assert ("chosen by scores that knew its window" in judged.reason) is is_told


BANDIT = CAMPAIGN + f"end_date: {DAY + timedelta(days=9)}\nbandit: {{floor: 0.1, min_count: 5}}\n"


def test_a_draw_follows_the_policy_that_was_published(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is published for the eve is in force, whatever it would come out as now."""
    campaign, eve = campaign_of(BANDIT), DAY
    own = policy.policy_of_draw(run, campaign, DAY)
    assert own.groupby("arm")["propensity"].unique().map(list).to_dict() == {
        "control": [0.5],
        "reminder": [0.5],
    }
    told = own.assign(propensity=own["arm"].map({"control": 0.3, "reminder": 0.7}))
    rows = told.assign(snapshot_date=eve, campaign_id=campaign.id, metric="retained")
    put(run.platform.lake, OFFER_POLICY, eve, rows[list(OFFER_POLICY.column_names)])
    monkeypatch.setattr(policy, "policy_after", lambda *_: pytest.fail("worked out again"))
    drawn_by = policy.policy_of_draw(run, campaign, DAY + timedelta(days=1))
    assert set(drawn_by.loc[drawn_by["arm"] == "reminder", "propensity"]) == {0.7}
    assert list(drawn_by.columns) == list(own.columns)


def test_a_standing_stock_comes_once_whatever_the_days_of_enrolment(run: Run) -> None:
    """Five waves of the same 200 customers and nobody new: the second day brings nobody."""
    lake, begin = run.platform.lake, DAY - timedelta(days=2)
    for n in range(5):
        publish_facts(run, DAY - timedelta(days=n))
    publish_customers(run, begin)
    text = f"end_date: {DAY + timedelta(days=4)}\n" + CAMPAIGN.replace(
        "{window_days", "{planned_customers: 1000, window_days"
    )
    drawn = filled(CAMPAIGN_ASSIGNMENTS, 0)
    alone = launch_of(run, campaign_of(text), N, DAY, drawn)
    assert alone.power == "unknown"
    assert "the day after it" in alone.reason
    publish_customers(run, begin + timedelta(days=1))
    found = launch_of(run, campaign_of(text), N, DAY, drawn)
    assert found.table["customer_count_arm"].iloc[0] == N / 2
    # of the first day half are not customers yet
    status = mart_tables()["customer_status"]
    standing = lake.read_frame(status, [begin])
    put(lake, status, begin, standing.assign(lifecycle=["active", "prospect"] * (N // 2)))
    more = launch_of(run, campaign_of(text), N, DAY, drawn)
    assert more.table["customer_count_arm"].iloc[0] > N / 2 + 4 * 40
