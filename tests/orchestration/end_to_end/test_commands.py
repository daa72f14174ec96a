"""The command line: what it prints when all is well, and what a person reads when it is not."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import pytest
from tiny_shop import (
    CAMPAIGN_ID,
    ENROLLED,
    FIRST,
    LAST_RUN,
    SHOP,
    platform,
    train,
)

from orchestration.cli import main
from orchestration.resources.home import Home
from orchestration.runs import run_days
from orchestration.tables import CHURN_SCORES, mart_tables

if TYPE_CHECKING:
    from tiny_shop import Enrolled

ROOT = Path(__file__).resolve().parents[3]
INIT = ["init", "--timezone", "Europe/Berlin", "--currency", "EUR", "--first-day", "2024-08-15"]
REQUIRED = ("customers", "orders", "order_items")


@pytest.fixture
def at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where HOLDFAST_HOME points: nothing is there yet."""
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "mine"))
    return tmp_path / "mine"


def fails(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Run a command that must fail with one message for people; return it."""
    assert main(arguments) == 1
    message = capsys.readouterr().err
    assert "Traceback" not in message
    return message


def test_without_a_home(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["run", "--from", "2025-01-01"], ["summary"], ["champion"], ["train"]):
        assert "there is no home at" in fails(capsys, *command)
    assert not at.exists()


def test_a_new_home_says_what_is_missing(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(INIT) == 0
    assert main(INIT) == 0  # again: the same shop
    assert "landing" in capsys.readouterr().out
    other = [*INIT[:2], "Asia/Tokyo", *INIT[3:]]
    assert "another shop" in fails(capsys, *other)
    assert "nothing is scored yet" in fails(capsys, "summary")
    assert "train first" in fails(capsys, "champion", "--rollback")
    assert "no campaign" in fails(capsys, "campaign", "nobody_knows")
    assert "outside this shop's days" in fails(capsys, "run", "--from", "2020-01-01")
    assert "ends before it begins" in fails(
        capsys, "run", "--from", "2025-01-02", "--to", "2025-01-01"
    )


def test_champion_of_a_home_without_models(at: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(INIT) == 0
    capsys.readouterr()
    assert "train" in fails(capsys, "champion")


def test_misuse_is_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["run"], ["run", "--from", "yesterday"], ["no-such-command"]):
        with pytest.raises(SystemExit) as stopped:
            main(arguments)
        assert stopped.value.code == 2


def test_a_missing_required_table_in_a_process_of_its_own(at: Path, enrolled: Enrolled) -> None:
    """As a person meets it: exit code 1, which table, where to put it, no traceback."""
    home = Home.create(at, SHOP)
    for name in ("customers", "orders"):
        shutil.copytree(enrolled.home.landing / name, home.landing / name)
    done = subprocess.run(
        [sys.executable, "-m", "orchestration", "run", "--from", str(ENROLLED)],
        cwd=ROOT,
        env=dict(os.environ),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 1
    assert "order_items" in done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert "C0000" not in done.stderr + done.stdout


def test_versions_of_a_day_can_be_told_and_read_again(
    copy: Home,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(copy.root))
    asked = ["versions", "churn_scores", str(LAST_RUN)]
    assert main([*asked, "--csv", str(tmp_path / "old.csv")]) == 0
    told = capsys.readouterr().out
    [published] = [line for line in told.splitlines() if line.startswith("version")]
    rows = pd.read_csv(tmp_path / "old.csv")
    assert f"{len(rows):,} rows" in published
    assert "model version 1" in published
    assert rows["churn_probability"].between(0, 1).all()
    assert "did not publish" in fails(
        capsys, *asked, "--version", "99", "--csv", str(tmp_path / "no.csv")
    )
    assert not (tmp_path / "no.csv").exists()
    assert "was never published" in fails(capsys, "versions", "churn_scores", "2019-01-01")
    assert "there are at_risk_list" in fails(capsys, "versions", "scores", "2019-01-01")


def test_summary_champion_and_campaign(
    copy: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOLDFAST_HOME", str(copy.root))
    assert main(["summary"]) == 0
    summary = capsys.readouterr().out
    assert f"THE SHOP ON {LAST_RUN}" in summary
    for words in (
        "margin at risk",
        "SEGMENTS",
        CAMPAIGN_ID,
        "CHAMPION MODEL",
        "coupon on retained",
    ):
        assert words in summary
    assert main(["champion"]) == 0
    assert "promote: None -> 1" in capsys.readouterr().out
    assert "has had no champion before" in fails(capsys, "champion", "--rollback")
    # the window of the campaign ended before the last day: nobody is contacted any more
    assert "outcome window" in fails(capsys, "campaign", CAMPAIGN_ID)


def test_a_home_that_was_moved_says_so(
    enrolled: Enrolled,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """MLflow keeps absolute paths: a moved home must not read the models of the old place."""
    shutil.copytree(enrolled.home.root, tmp_path / "moved")
    monkeypatch.setenv("HOLDFAST_HOME", str(tmp_path / "moved"))
    message = fails(capsys, "champion")
    assert "moved" in message
    assert str(enrolled.home.root) in message


@pytest.mark.slow
def test_the_three_required_tables_suffice(at: Path, enrolled: Enrolled) -> None:
    """The whole loop on customers, orders and order_items; one day delivers nothing at all."""
    home = Home.create(at, SHOP)
    for name in REQUIRED:
        shutil.copytree(enrolled.home.landing / name, home.landing / name)
    train(home)
    run_days(home, ENROLLED, FIRST)
    lake = platform(home).lake
    features = lake.read_frame(mart_tables()["customer_features"], [FIRST])
    theirs = enrolled.read.lake.read_frame(mart_tables()["customer_features"], [FIRST])
    assert set(features["customer_key"]) == set(theirs["customer_key"])
    for name in ("order_count_365d", "revenue_amount_365d", "days_since_last_order"):
        assert (features[name] == theirs[name]).all(), name
    for stem in ("event_count", "ticket_count", "review_count", "return_count", "contact_count"):
        columns = [c for c in features if c.startswith(stem)]
        assert columns, stem
        assert (features[columns].fillna(0).astype("float64") == 0).all(axis=None), stem
    for name in ("csat_mean_365d", "rating_mean_365d", "days_since_last_event"):
        assert features[name].isna().all(), name
    assert len(lake.read_frame(CHURN_SCORES, [FIRST])) == len(features)
    assert lake.read_frame(CHURN_SCORES, [FIRST])["is_margin_assumed"].all()
