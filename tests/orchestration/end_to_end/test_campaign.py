"""From cohort to e-mail tool and back: approval, withdrawn consent, and the shop's answer."""

from __future__ import annotations

import csv
import io
import json
import re
import sqlite3
import time
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from tiny_shop import (
    APPROVER,
    CAMPAIGN_ID,
    ENROLLED,
    FIRST,
    LAST,
    LAST_RUN,
    canary_email,
    land,
    run_assets,
    shop_days,
    token_in,
    told,
)

from ml.campaigns.definition import Campaign, CampaignError
from ml.campaigns.export import ExportRefusedError
from orchestration.cli import main
from orchestration.defs.campaigns import assets
from orchestration.defs.campaigns.export import (
    NobodyLeftError,
    WindowEndedError,
    export,
    preview,
)
from orchestration.defs.campaigns.files import registered
from orchestration.demo import _export
from orchestration.resources.activation import DeliveryError, is_signed
from orchestration.resources.home import HomeError, write_atomically
from orchestration.resources.platform import Platform
from orchestration.runs import RunFailedError, run_days, run_facts
from orchestration.tables import (
    AT_RISK_LIST,
    CAMPAIGN_ASSIGNMENTS,
    CAMPAIGN_COHORTS,
    CAMPAIGN_DELIVERIES,
    CAMPAIGN_RESULTS,
    OFFER_POLICY,
)

if TYPE_CHECKING:
    from datetime import date

    from tiny_shop import Enrolled

    from orchestration.defs.daily import Run
    from orchestration.resources.home import Home
    from orchestration.resources.lake import Lake


def test_dry_run_counts_and_names_nobody(enrolled: Enrolled) -> None:
    rows = pd.read_parquet(enrolled.exported[1])
    receipt = json.loads(enrolled.exported[-1].read_text())
    assert receipt["rows"] == len(rows)
    assert "anary" not in json.dumps(receipt)
    assert f"{len(rows):,} customers" in enrolled.preview
    assert APPROVER in enrolled.preview
    assert "anary" not in enrolled.preview


@pytest.fixture
def prolonged(copy: Home, monkeypatch: pytest.MonkeyPatch) -> Home:
    """The copy, as if the window were still open on the last day; the file stays as it was."""
    monkeypatch.setattr(Campaign, "window_end_date", property(lambda campaign: LAST))
    return copy


def _forget(home: Home, customers: int = 10**6) -> None:
    """Forget that some were handed over."""
    with sqlite3.connect(home.catalog) as connection:
        connection.execute(
            "delete from exports where customer_key in"
            " (select customer_key from exports order by customer_key limit ?)",
            (customers,),
        )


def test_a_file_that_changed_after_the_draw_exports_nothing(copy: Home) -> None:
    path = copy.campaigns / "stay.yaml"
    drawn = path.read_text()
    path.write_text(drawn.replace("window_days: 3", "window_days: 10"))
    with pytest.raises(CampaignError, match=r"outcome.window_days was 3 and is 10"):
        preview(copy, CAMPAIGN_ID, None)
    path.write_text(drawn.replace("=We miss you", "=We miss you, and so does your cart"))
    with pytest.raises(CampaignError, match=r"arms.2.offer"):
        export(copy, CAMPAIGN_ID, None, APPROVER, "0" * 16)
    # what is free may change: it is another name, and another person who approves
    path.write_text(drawn.replace(APPROVER, "Somebody new"))
    with pytest.raises(WindowEndedError):
        preview(copy, CAMPAIGN_ID, None)


def test_export_needs_its_approver_and_its_dry_run(prolonged: Home, enrolled: Enrolled) -> None:
    _forget(prolonged)
    token = token_in(preview(prolonged, CAMPAIGN_ID, LAST_RUN))
    files = sorted((prolonged.exports / "campaigns").rglob("*"))
    for approver, given in (("Somebody else", token), (APPROVER, "0" * 16), (APPROVER, "")):
        with pytest.raises(ExportRefusedError):
            export(prolonged, CAMPAIGN_ID, LAST_RUN, approver, given)
    # the token of another day is not that of this one
    with pytest.raises(ExportRefusedError, match="dry run"):
        export(prolonged, CAMPAIGN_ID, LAST_RUN, APPROVER, token_in(enrolled.preview))
    assert sorted((prolonged.exports / "campaigns").rglob("*")) == files


def test_consent_is_judged_on_the_last_published_day_only(enrolled: Enrolled) -> None:
    with pytest.raises(HomeError, match=f"last published day, {LAST_RUN}"):
        preview(enrolled.home, CAMPAIGN_ID, ENROLLED)


def test_nothing_is_exported_after_the_window(enrolled: Enrolled) -> None:
    with pytest.raises(WindowEndedError, match="ended on"):
        preview(enrolled.home, CAMPAIGN_ID, None)


def test_a_second_export_hands_over_only_who_is_new(prolonged: Home, enrolled: Enrolled) -> None:
    first = set(pd.read_parquet(enrolled.exported[1])["customer_id"])
    _forget(prolonged, 5)
    text = preview(prolonged, CAMPAIGN_ID, None)
    assert f"already_exported: {len(first) - 5:,}" in text
    csv_path, parquet, *_ = export(prolonged, CAMPAIGN_ID, None, APPROVER, token_in(text))
    again = pd.read_parquet(parquet)["customer_id"]
    assert 0 < len(again) <= 5
    assert set(again) < first
    before = csv_path.read_bytes()
    text = preview(prolonged, CAMPAIGN_ID, None)
    with pytest.raises(NobodyLeftError, match="nobody left"):
        export(prolonged, CAMPAIGN_ID, None, APPROVER, token_in(text))
    assert csv_path.read_bytes() == before


def test_a_demo_that_is_run_again_goes_on(
    copy: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _export(copy)
    assert "ended on" in capsys.readouterr().out
    monkeypatch.setattr(Campaign, "window_end_date", property(lambda campaign: LAST))
    _export(copy)
    assert "nobody left to hand over" in capsys.readouterr().out


def test_the_file_holds_the_treated_and_no_formula(enrolled: Enrolled) -> None:
    path, parquet, *_ = enrolled.exported
    assert [file.name for file in enrolled.exported] == [
        "email.csv",
        "email.parquet",
        "email.ndjson",
        "receipt.json",
    ]
    assert path.stat().st_mode & 0o077 == 0
    text = path.read_bytes().decode("utf-8")
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    assert header == ["customer_id", "email", "campaign_id", "arm", "play", "offer"]
    assert not [cell for row in rows for cell in row if cell[:1] in "=+-@\t\r" and cell]
    assert {row[5] for row in rows} == {"'=10 off your next order", "'=We miss you"}
    assert all(row[1] == "'" + canary_email(row[0]) for row in rows)
    ledger = enrolled.read.lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    treated = set(ledger.loc[ledger["arm"] != "control", "customer_key"])
    known = enrolled.read.vault.identities(sorted(treated))
    assert {row[0] for row in rows} <= {person.customer_id for person in known.values()}
    assert {row[3] for row in rows} == {"coupon", "reminder"}
    assert len(pd.read_parquet(parquet)) == len(rows)


def test_who_withdraws_consent_after_the_assignment_is_dropped(
    prolonged: Home, enrolled: Enrolled
) -> None:
    before = set(pd.read_parquet(enrolled.exported[1])["customer_id"])
    _forget(prolonged)
    text = preview(prolonged, CAMPAIGN_ID, LAST_RUN)
    assert "no_consent" in text
    path = export(prolonged, CAMPAIGN_ID, LAST_RUN, APPROVER, token_in(text))[1]
    after = set(pd.read_parquet(path)["customer_id"])
    assert enrolled.withdrew in before
    assert enrolled.withdrew not in after
    assert after < before
    # for the outcome they stay where they were drawn
    ledger = enrolled.read.lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    (key,) = [
        key
        for key, person in enrolled.read.vault.identities(list(ledger["customer_key"])).items()
        if person.customer_id == enrolled.withdrew
    ]
    assert list(ledger.loc[ledger["customer_key"] == key, "arm"]) in (["coupon"], ["reminder"])


def test_cohort_and_ledger_agree(enrolled: Enrolled) -> None:
    ledger = enrolled.read.lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    cohort = enrolled.read.lake.read_frame(CAMPAIGN_COHORTS)
    assert set(ledger["assigned_date"]) == set(cohort["snapshot_date"]) == {ENROLLED}
    drawn = cohort[cohort["arm"].notna()].set_index("customer_key")["arm"]
    assert drawn.to_dict() == ledger.set_index("customer_key")["arm"].to_dict()
    assert (cohort["exclusion_reason"].isna() == cohort["is_eligible"]).all()
    # every eligible customer is drawn, or held out of all campaigns of this quarter
    assert cohort.loc[cohort["arm"].notna(), "is_eligible"].all()
    assert set(ledger["arm"]) == {"control", "coupon", "reminder"}
    assert set(ledger["value_tier"]) <= {"high", "middle", "low", "unknown"}
    assert len(set(ledger["value_tier"])) > 1
    assert registered(enrolled.home, CAMPAIGN_ID) is not None


def test_the_shop_sends_to_whom_the_cohort_names(enrolled: Enrolled) -> None:
    ledger = enrolled.read.lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    record = json.loads((enrolled.home.root / "simulated" / f"{FIRST}_{LAST}.json").read_text())
    assert record["contacts_read"] == len(ledger)
    first = json.loads(next(iter(sorted((enrolled.home.root / "simulated").iterdir()))).read_text())
    assert first["contacts_read"] == 0
    sent = pd.read_parquet(enrolled.home.landing / "deliveries" / f"{FIRST}_{LAST}.parquet")
    sent = sent[sent["campaign_id"] == CAMPAIGN_ID]
    treated = list(ledger.loc[ledger["arm"] != "control", "customer_key"])
    known = enrolled.read.vault.identities(treated)
    assert set(sent["customer_id"]) <= {person.customer_id for person in known.values()}
    assert len(sent) > 0
    assert set(shop_days(sent["sent_at"])) == {FIRST}


def test_a_broken_delivery_goes_on_without_who_was_suppressed_since(
    prolonged: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The tool refuses at first; then a customer is put on the list, and the rest arrives once."""
    _forget(prolonged)
    monkeypatch.setenv("HOLDFAST_ACTIVATION_SECRET", "known-to-both-sides")
    bodies: list[bytes] = []

    class Tool(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            signature = self.headers["X-Holdfast-Signature"]
            assert is_signed(b"known-to-both-sides", body, signature, int(time.time()))
            bodies.append(body)
            self.send_response(403 if len(bodies) == 1 else 200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Tool)
    Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/cohorts"
    token = token_in(preview(prolonged, CAMPAIGN_ID, None))
    try:
        with pytest.raises(DeliveryError, match="HTTP 403"):
            export(prolonged, CAMPAIGN_ID, None, APPROVER, token, url)
        (receipt,) = (
            path
            for path in (prolonged.exports / "campaigns" / CAMPAIGN_ID).glob("*/receipt.json")
            if json.loads(path.read_text())["export_id"] == token
        )
        frozen = pd.read_parquet(receipt.parent / "email.parquet")
        files, posted = json.loads(receipt.read_text())["deliveries"]
        assert (files["is_complete"], posted["is_complete"]) == (True, False)

        gone = frozen["customer_id"].iloc[0]
        (prolonged.campaigns / "suppression.csv").write_text(f"customer_id\n{gone}\n")
        with pytest.raises(ExportRefusedError, match="approved by"):
            export(prolonged, CAMPAIGN_ID, None, "Somebody else", token, url)
        path = prolonged.campaigns / "stay.yaml"
        drawn = path.read_text()
        path.write_text(drawn.replace("=We miss you", "=Something else"))
        with pytest.raises(ExportRefusedError, match="has changed since"):
            export(prolonged, CAMPAIGN_ID, None, APPROVER, token, url)
        path.write_text(drawn)
        export(prolonged, CAMPAIGN_ID, None, APPROVER, token, url)
        export(prolonged, CAMPAIGN_ID, None, APPROVER, token, url)  # nothing is left to send
    finally:
        server.shutdown()
        server.server_close()
    assert len(bodies) == 2
    sent = [json.loads(line)["customer_id"] for line in bodies[1].splitlines()]
    assert sent == list(frozen["customer_id"].iloc[1:])
    posted = json.loads(receipt.read_text())["deliveries"][1]
    assert (posted["is_complete"], posted["withheld"]) == (True, 1)
    assert posted["parts"][0]["rows"] == len(frozen) - 1
    assert "already_exported" in preview(prolonged, CAMPAIGN_ID, None)


def test_a_campaign_that_was_changed_enrols_nobody_and_says_what_would_move(copy: Home) -> None:
    path = copy.campaigns / "stay.yaml"
    path.write_text(path.read_text().replace("weight: 0.2", "weight: 0.3"))
    path.write_text(path.read_text().replace("weight: 0.5", "weight: 0.4"))
    with pytest.raises(RunFailedError) as caught:
        run_days(copy, ENROLLED, ENROLLED)
    assert "arms.2.weight was 0.2 and is 0.3, which would move customers" in str(caught.value)


def test_consent_to_another_purpose_is_consent_of_its_own(
    copy: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The simulated shop asks for consent to e-mails of its service, too, and to nothing else."""
    monkeypatch.setenv("HOLDFAST_HOME", str(copy.root))
    text = (copy.campaigns / "stay.yaml").read_text()
    assigned = {}
    for purpose in ("marketing", "service", "dancing"):
        own = text.replace(CAMPAIGN_ID, purpose).replace(
            "channels:", f"purpose: {purpose}\nchannels:"
        )
        own += f"layer: {{name: {purpose}}}\n"
        write_atomically(copy.campaigns / f"{purpose}.yaml", own.encode())
        assert main(["campaign", purpose, "--plan"]) == 0
        (count,) = re.findall(r"([\d,]+) assigned", capsys.readouterr().out)
        assigned[purpose] = int(count.replace(",", ""))
    assert assigned["dancing"] == 0
    assert assigned["marketing"] > 0
    assert assigned["service"] > 0
    assert assigned["service"] != assigned["marketing"]


def _draws_follow_the_policy(lake: Lake) -> None:
    """Each row of the bandit's ledger has the probabilities published for the day before."""
    ledger = lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    own = ledger[ledger["campaign_id"] == "d"]
    assert ledger.loc[ledger["campaign_id"] != "d", "segment"].isna().all()
    assert len(set(own["segment"])) > 1
    for row in own.to_dict("records"):
        before = lake.read_frame(OFFER_POLICY, [row["assigned_date"] - timedelta(days=1)])
        before = before[(before["campaign_id"] == "d") & (before["segment"] == row["segment"])]
        wanted = dict(zip(before["arm"], before["propensity"], strict=True))
        assert json.loads(row["weights_json"]) == (
            wanted or {"control": 0.3, "reminder": 0.2, "coupon": 0.5}
        )
    last = lake.read_frame(OFFER_POLICY, [LAST]).set_index("campaign_id").loc["d"]
    assert last["verdict"].notna().all()
    assert (last["propensity"] >= 0.1 - 1e-9).all()
    assert last["customer_count"].max() > 0
    advice = lake.read_frame(OFFER_POLICY, [LAST]).set_index("campaign_id").loc["a"]
    assert advice["verdict"].isna().all()


def test_a_day_of_facts_knows_what_became_of_messages(copy: Home) -> None:
    """A message that bounced on a day that the daily job never ran."""
    ledger = Platform(root=str(copy.root)).lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    key = ledger.loc[ledger["arm"] == "coupon", "customer_key"].iloc[0]
    person = Platform(root=str(copy.root)).vault.identities([key])[key]
    row = {
        "campaign_id": CAMPAIGN_ID,
        "customer_id": person.customer_id,
        "channel": "sms",
        "sent_at": f"{LAST}T10:00:00Z",
        "status": "bounced",
        "arm": "reminder",  # and it was the other arm's
    }
    land(copy, "deliveries", "by_hand", [row])
    run_facts(copy, LAST_RUN + timedelta(days=1), LAST)
    lake = Platform(root=str(copy.root)).lake
    assert lake.days(CAMPAIGN_DELIVERIES)[-2:] == [LAST_RUN + timedelta(days=1), LAST]
    assert lake.days(CAMPAIGN_COHORTS)[-1] == LAST_RUN, "only facts were published"
    known = lake.read_frame(CAMPAIGN_DELIVERIES, [LAST]).set_index(["customer_key", "channel"])
    found = known.loc[(key, "sms")]
    assert (found["arm"], found["is_bounced"]) == ("coupon", True)
    assert (found["sent_arm"], found["is_other_arm"]) == ("reminder", True)
    own = lake.read_frame(CAMPAIGN_DELIVERIES, [FIRST])
    assert (own["sent_arm"] == own["arm"]).all(), "the simulated tool says whose, and sends right"
    assert len(own)


@pytest.mark.slow
def test_a_campaign_starts_only_with_the_power_it_promises(
    copy: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Three that differ in what they ask for: found, not found, and not found but accepted."""
    monkeypatch.setenv("HOLDFAST_HOME", str(copy.root))
    path = copy.campaigns / "stay.yaml"
    text = path.read_text().replace(str(ENROLLED), str(LAST_RUN + timedelta(days=1)))
    text = text.replace("  return_lag_days: 1\n", "  return_lag_days: 0\n")
    for name, effect, accepted in (("a", 0.9, False), ("b", 0.01, False), ("c", 0.01, True)):
        own = text.replace(CAMPAIGN_ID, name).replace("{retained: 0.05}", f"{{retained: {effect}}}")
        own += (
            f"layer: {{name: {name}}}\neligibility: {{max_contacts_7d: 9, max_contacts_30d: 9}}\n"
        )
        write_atomically(
            copy.campaigns / f"{name}.yaml",
            (own if accepted else own.replace("if_underpowered: mark\n", "")).encode(),
        )
    own = text.replace(CAMPAIGN_ID, "d").replace("window_days: 3", "window_days: 1")
    own += "layer: {name: d}\neligibility: {max_contacts_7d: 9, max_contacts_30d: 9}\n"
    own += f"end_date: {LAST + timedelta(days=1)}\nbandit: {{floor: 0.1, min_count: 5}}\n"
    write_atomically(copy.campaigns / "d.yaml", own.encode())
    assert main(["campaign", "b", "--plan"]) == 0  # before anything has run
    planned = capsys.readouterr().out
    assert "REFUSED" in planned
    assert "| coupon | retained |" in planned
    assert main(["campaign", "a", "--plan"]) == 0
    assert "It starts" in capsys.readouterr().out

    day = LAST_RUN + timedelta(days=1)
    run_days(copy, day, LAST)
    lake = Platform(root=str(copy.root)).lake
    ledger = lake.read_frame(CAMPAIGN_ASSIGNMENTS, [day])
    assert ledger.groupby("campaign_id")["launch_power"].unique().map(list).to_dict() == {
        "a": ["ok"],
        "c": ["underpowered"],
        "d": ["underpowered"],
    }
    cohort = lake.read_frame(CAMPAIGN_COHORTS, [day]).groupby("campaign_id")
    reasons = cohort["exclusion_reason"].value_counts()
    assert reasons["b", "underpowered"] == (ledger["campaign_id"] == "c").sum()
    assert "underpowered" not in reasons["c"]
    results = lake.read_frame(CAMPAIGN_RESULTS, [LAST])
    moving = results[results["campaign_id"] == "d"]  # a bandit, of several days and segments
    assert (moving["srm_p_eligible"] > 0.001).all()
    assert results.groupby("campaign_id")["reason"].agg(
        lambda own: own.str.contains("known to be underpowered").all()
    ).to_dict() == {
        "a": False,
        "c": True,
        "d": True,
    }
    _draws_follow_the_policy(lake)
    shown = told(copy, "campaign_assignments", day)
    assert str(shown["b launch"]).startswith("refused: reminder: ")
    assert str(shown["c launch"]).startswith("underpowered: ")
    assert "| coupon | retained |" in str(shown["a power"])
    before = lake.publication(CAMPAIGN_COHORTS, day)
    assert run_assets(copy, ["campaign_assignments", "campaign_cohorts"], day).success
    assert lake.publication(CAMPAIGN_COHORTS, day).content_hash == before.content_hash  # type: ignore[union-attr]


def test_customers_of_two_campaigns_of_a_layer_are_told_in_the_reading(
    copy: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the ledger held everybody in a second campaign, which the draw itself prevents."""
    lake = Platform(root=str(copy.root)).lake
    told_before = lake.read_frame(CAMPAIGN_RESULTS, [LAST_RUN])["reason"]
    assert not told_before.str.contains("more than one treatment|add up to").any()
    read = assets.ledger_of

    def twice(run: Run, day: date) -> pd.DataFrame:
        ledger = read(run, day)
        return pd.concat([ledger, ledger.assign(campaign_id="twin")], ignore_index=True)

    monkeypatch.setattr(assets, "ledger_of", twice)
    assert run_assets(copy, ["campaign_results"], LAST_RUN).success
    results = Platform(root=str(copy.root)).lake.read_frame(CAMPAIGN_RESULTS, [LAST_RUN])
    assert results["reason"].str.contains("in another campaign of the layer").any()


def test_a_play_of_the_list_needs_its_approver_and_leaves_once(copy: Home) -> None:
    listed = Platform(root=str(copy.root)).lake.read_frame(AT_RISK_LIST, [LAST_RUN])
    play = listed["suggested_play"].value_counts().index[0]
    text = preview(copy, f"at_risk_{play}", None)
    assert "anary" not in text
    token = token_in(text)
    with pytest.raises(ExportRefusedError, match="approved by Head of CRM"):
        export(copy, f"at_risk_{play}", None, "Somebody else", token)
    *_, receipt = export(copy, f"at_risk_{play}", None, "Head of CRM", token)
    rows = json.loads(receipt.read_text())["rows"]
    assert 0 < rows <= (listed["suggested_play"] == play).sum()
    with pytest.raises(NobodyLeftError):
        export(copy, f"at_risk_{play}", None, "Head of CRM", token_in(
            preview(copy, f"at_risk_{play}", None)
        ))  # fmt: skip
    with pytest.raises(HomeError, match="no play 'dance'"):
        preview(copy, "at_risk_dance", None)
