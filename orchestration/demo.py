"""The demo: a shop with a past, trained, run for a week, a campaign measured, told in words.

What belongs here: the order of the steps, and the summary for a shop owner. Each step is the same
code that the schedule and the command line run.
"""

from __future__ import annotations

import shutil
import time
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestration.resources.home import Home, HomeError, Shop, write_atomically
from orchestration.settings import Settings

if TYPE_CHECKING:
    import pandas as pd

    from orchestration.resources.platform import Platform

SIMULATED = Shop("Europe/Berlin", "EUR", date(2024, 1, 1), date(2025, 6, 30), source="simulated")
SEED = 7
# Test snapshots of a demo's training, a horizon apart. A third would cost it half a minute.
ORIGINS = 2
# The last days, which are run daily; before them a model needs fortnightly snapshots only.
LAST_DAYS = 7
# The campaigns are assigned this many days before the end: their windows of 21 days have closed,
# and the 14 days in which most returns come have passed, on the first of the last days.
WINDOW_DAYS = 21
CAMPAIGN_DAYS = WINDOW_DAYS + 14 + LAST_DAYS - 1
# Lives of each customer in either world, from which the simulated truth is averaged: its error is a
# tenth of the measured one's.
REPLICATES = 10
TRUE_METRICS = {
    "retained": "is_retained",
    "order_count": "order_count",
    "revenue_amount": "revenue_amount",
    "margin_amount": "margin_amount",
}
# A demo has nobody to protect. A known key makes two demos alike to the last digit.
KNOWN_SECRET = "a-simulated-shop-has-no-secrets"
EXAMPLES = Path(__file__).parent / "defs" / "campaigns"
CAMPAIGNS = {"winback.yaml": "example_campaign.yaml", "wake_up.yaml": "example_reminder.yaml"}


def demo(
    source: str,
    data: Path | None,
    customers: int,
    *,
    timezone: str = "UTC",
    currency: str = "EUR",
    fresh: bool = False,
) -> None:
    """Make a home of `source`, run the main job on it and print the summary.

    A demo that was interrupted goes on where it stopped: files already delivered are not delivered
    again, days already published are published again without change.
    """
    started = time.monotonic()
    root = Settings().home
    if fresh and Home.exists(root):
        _throw_away(Home.open(root), source)
    if source == "simulated":
        home = Home.create(root, SIMULATED)
        _begin_with_known_secret(home)
        _simulated(home, customers)
    else:
        if data is None:
            raise HomeError(f"--source {source} needs --data FOLDER")
        home = _delivered(root, source, data, timezone, currency)
        _historic(home)
    text = summary(home)
    write_atomically(home.root / "summary.txt", text.encode() + b"\n")
    print(f"\n{text}\n\nDone in {time.monotonic() - started:.0f} s.")


def _throw_away(home: Home, source: str) -> None:
    """Delete the home of an earlier demo of `source`.

    Raises:
        HomeError: it is no such home: of another source, or of a live shop.
    """
    if home.shop.source != source or home.shop.last_day is None:
        raise HomeError(
            f"{home.root} was not made by a demo of {source}, so it is not thrown away; choose "
            "another folder with HOLDFAST_HOME"
        )
    shutil.rmtree(home.root)


def _begin_with_known_secret(home: Home) -> None:
    """Keep the known key in a new home of a demo, unless HOLDFAST_SECRET is set."""
    if Settings().secret is None and not home.vault.is_file():
        home.secret(first=KNOWN_SECRET)


def _simulated(home: Home, customers: int) -> None:
    from orchestration.defs.sources.simulated import simulate_into
    from orchestration.runs import run_days, run_facts, run_history, run_training, say

    first, last = home.shop.first_day, home.shop.last_day
    assert last is not None
    enrolled = last - timedelta(days=CAMPAIGN_DAYS)
    begin, after = enrolled - timedelta(days=WINDOW_DAYS), enrolled + timedelta(days=1)

    def deliver(start: date, end: date) -> None:
        if not (home.root / "simulated" / f"{start}_{end - timedelta(days=1)}.json").is_file():
            simulate_into(home, start, end, customers, SEED, lambda text: print(f"  {text}"))

    say(f"1/6  The simulated shop delivers {first} .. {enrolled}: {customers:,} customers")
    deliver(first, after)
    _place_campaigns(home, enrolled)
    say(f"2/6  Features and labels of past days, fortnightly, up to {begin}")
    run_history(home, begin)
    # As of the earlier window: what is foretold then, and on the day of assignment, is a forecast.
    say(f"3/6  Training: the candidates, out of time, as of {begin}")
    run_training(home, begin, ORIGINS)
    say(f"     An earlier window, {begin} .. {enrolled}: what the campaigns could find")
    run_days(home, begin, begin)
    run_facts(home, begin + timedelta(days=1), enrolled - timedelta(days=1))
    say(f"4/6  The daily job for {enrolled}: scores, segments, at-risk list, campaign cohorts")
    run_days(home, enrolled, enrolled)
    _export(home)
    say(f"5/6  The campaigns run: the shop delivers {after} .. {last}")
    deliver(after, last + timedelta(days=1))
    daily = last - timedelta(days=LAST_DAYS - 1)
    before = daily - timedelta(days=1)
    say(f"6/6  Orders of {after} .. {before}, then the daily job for {daily} .. {last}, in one run")
    run_facts(home, after, before)
    run_days(home, daily, last)


def _historic(home: Home) -> None:
    from orchestration.runs import run_days, run_history, run_training, say

    last = home.shop.last_day
    assert last is not None
    first = last - timedelta(days=LAST_DAYS - 1)
    _place_campaigns(home, last)
    say(f"2/4  Features and labels of past days, fortnightly, up to {first}")
    run_history(home, first)
    say(f"3/4  Training: the candidates, out of time, as of {first}")
    run_training(home, first, ORIGINS)
    say(f"4/4  The daily job for {first} .. {last}, in one run")
    run_days(home, first, last)


def _delivered(root: Path, source: str, data: Path, timezone: str, currency: str) -> Home:
    from orchestration.runs import say

    if not data.is_dir():
        raise HomeError(f"{data} is not a folder")
    if source == "online-retail-ii":
        from orchestration.defs.sources.online_retail_ii import (
            CURRENCY,
            FIRST_DAY,
            LAST_DAY,
            SHOP_TIMEZONE,
            import_online_retail_ii,
        )

        # The data knows nothing of consent. A real shop must say what an absent record means.
        shop = Shop(
            SHOP_TIMEZONE,
            CURRENCY,
            FIRST_DAY,
            LAST_DAY,
            consent_without_records="granted",
            source=source,
        )
        home = Home.create(root, shop)
        _begin_with_known_secret(home)
        say(f"1/4  Importing Online Retail II from {data}")
        if not (home.landing / "orders").is_dir():
            report = import_online_retail_ii(data, home.landing)
            for bucket, count in report.buckets.items():
                print(f"  {bucket:28}{count:>12,} rows")
            print(f"  {'in all':28}{report.rows_in:>12,} rows")
        return home
    from orchestration.defs.sources.landing import delivered_days

    say(f"1/4  Taking files in the source contract from {data}")
    first, last = delivered_days(data)
    home = Home.create(root, Shop(timezone, currency, first, last, source=source))
    shutil.copytree(data, home.landing, dirs_exist_ok=True)
    return home


def _place_campaigns(home: Home, day: date) -> None:
    """Put the example campaigns into the home, starting on `day`, unless they are there.

    A source without e-mail addresses can only be reached by post.
    """
    channel = "email" if home.shop.source == "simulated" else "post"
    own = {
        "start_date:": f"start_date: {day}\n",
        "channels:": f"channels: [{channel}]\n",
        # A demo of 2,000 customers is to go on; one of 20,000 has power enough.
        "if_underpowered:": "if_underpowered: mark\n",
    }
    for name, example in CAMPAIGNS.items():
        target = home.campaigns / name
        if not target.is_file():
            lines = (EXAMPLES / example).read_text(encoding="utf-8").splitlines(keepends=True)
            moved = [own.get(line.split(" ")[0], line) for line in lines]
            write_atomically(target, "".join(moved).encode())


def _export(home: Home) -> None:
    """Dry run, then export by the approver whom the campaign file names.

    A demo that is run again finds everybody handed over, and the window ended: it says so.
    """
    import re

    from orchestration.defs.campaigns.export import (
        NobodyLeftError,
        WindowEndedError,
        export,
        preview,
    )
    from orchestration.defs.campaigns.files import read_campaigns

    for campaign in read_campaigns(home):
        try:
            text = preview(home, campaign.id, None)
            print(f"  {text.splitlines()[0]}")
            found = re.search(r"--token (\w+)", text)
            assert found is not None
            for path in export(home, campaign.id, None, campaign.approver, found.group(1)):
                print(f"  wrote {path}")
        except (NobodyLeftError, WindowEndedError) as error:
            print(f"  {error}")


# -- the summary -----------------------------------------------------------------------------------


def summary(home: Home) -> str:
    """Return what the last published day says, in words for a shop owner."""
    from orchestration.resources.platform import Platform
    from orchestration.tables import CHURN_SCORES

    platform = Platform(root=str(home.root))
    days = platform.lake.days(CHURN_SCORES)
    if not days:
        raise HomeError("nothing is scored yet; run the daily job first")
    day = days[-1]
    parts = [
        _risk(platform, day),
        _segments(platform, day),
        _campaigns(platform),
        _model(platform),
        _where(home, day),
    ]
    return "\n\n".join(part for part in parts if part)


def _risk(platform: Platform, day: date) -> str:
    from orchestration.tables import AT_RISK_LIST, CHURN_SCORES

    shop = platform.home.shop
    scores = platform.lake.read_frame(CHURN_SCORES, [day])
    listed = platform.lake.read_frame(AT_RISK_LIST, [day])
    p = scores["churn_probability"]
    at_risk = float(scores["margin_at_risk_amount"].sum())
    listed_margin = float(listed["margin_at_risk_amount"].sum()) if len(listed) else 0.0
    lines = [
        f"THE SHOP ON {day}",
        f"  customers scored             {len(scores):>12,}   (bought in the last "
        f"{shop.active_window_days} days)",
        f"  expected to stop buying      {p.sum():>12,.0f}   ({p.mean():.0%} have no order in the "
        f"next {shop.horizon_days} days)",
        f"  margin at risk               {at_risk:>12,.0f} {shop.currency}"
        + ("  (margin rate assumed: no unit costs)" if scores["is_margin_assumed"].any() else ""),
        f"  on today's at-risk list      {len(listed):>12,}   worth "
        f"{listed_margin:,.0f} {shop.currency}",
    ]
    if len(listed):
        plays = listed["suggested_play"].value_counts()
        lines.append(
            "  suggested                    "
            + ", ".join(f"{count} x {str(play).replace('_', ' ')}" for play, count in plays.items())
        )
    if shop.consent_without_records == "granted":
        lines.append(
            "  NOTE: this shop delivers no consent records; consent is ASSUMED for the demo."
        )
    return "\n".join(lines)


def _segments(platform: Platform, day: date) -> str:
    from orchestration.tables import CUSTOMER_SEGMENTS

    segments = platform.lake.read_frame(CUSTOMER_SEGMENTS, [day])
    lifecycle = segments["lifecycle"].value_counts()
    rfm = segments["rfm_segment"].dropna().value_counts()
    clusters = segments["cluster_name"].dropna().value_counts()
    return "\n".join(
        [
            "SEGMENTS",
            "  lifecycle   " + ", ".join(f"{name} {n:,}" for name, n in lifecycle.items()),
            "  RFM         " + ", ".join(f"{name} {n:,}" for name, n in rfm.items()),
            "  K-means     " + "; ".join(f"{name}: {n:,}" for name, n in clusters.items()),
        ]
    )


def _campaigns(platform: Platform) -> str:
    from orchestration.defs.campaigns.files import registered
    from orchestration.tables import CAMPAIGN_ASSIGNMENTS, CAMPAIGN_COHORTS, CAMPAIGN_RESULTS

    lines = ["CAMPAIGNS"]
    ledger = platform.lake.read_frame(CAMPAIGN_ASSIGNMENTS)
    cohorts = platform.lake.read_frame(CAMPAIGN_COHORTS)
    results = platform.lake.read_frame(CAMPAIGN_RESULTS)
    truths = _truths(platform.home, results)
    plain: dict[str, str] = {}  # one arm of each, since two share a control
    for campaign, own in ledger.groupby("campaign_id"):
        counts = ", ".join(
            f"{arm} {n:,}" for arm, n in own["arm"].value_counts().sort_index().items()
        )
        excluded = cohorts[(cohorts["campaign_id"] == campaign) & cohorts["arm"].isna()]
        power = own["launch_power"].iloc[0]
        told = {"underpowered": "; underpowered, and known to be", "unknown": "; power unknown"}
        lines.append(
            f"  {campaign}: assigned on {min(own['assigned_date'])}: {counts}{told.get(power, '')}"
        )
        if len(excluded):
            why = excluded["exclusion_reason"].value_counts()
            lines.append(
                f"    left out before randomisation: {len(excluded):,} ("
                + ", ".join(f"{reason} {n:,}" for reason, n in why.items())
                + ")"
            )
        read = results[results["campaign_id"] == campaign]
        # The newest reading stands; one that is settled is not made again.
        newest = read[read["snapshot_date"] == read["snapshot_date"].max()]
        definition = registered(platform.home, str(campaign))
        discounts = (
            {arm.name for arm in definition.arms if arm.is_discount} if definition else set()
        )
        lines += [_reading(row, truths) for row in newest.to_dict("records")]
        held = [
            row["effect_low"] <= true <= row["effect_high"]
            for row in newest.to_dict("records")
            if (true := truths.get((row["campaign_id"], row["arm"], row["metric"]))) is not None
            and row["effect"] == row["effect"]
        ]
        if held:
            lines.append(f"    intervals that hold the simulated truth: {sum(held)} of {len(held)}")
        taken = newest[newest["method"].str.contains("cuped", na=False)]
        taken = taken.groupby("metric")["variance_reduction"].mean()
        if len(taken):
            shares = ", ".join(f"{metric} {share:.1%}" for metric, share in taken.items())
            lines.append(f"    what was foretold, and the strata, took off the variance: {shares}")
        arms = sorted(set(newest["arm"]))
        plain[str(campaign)] = next((arm for arm in arms if arm not in discounts), "")
    lines += together(results, plain)
    return "\n".join(lines) if len(lines) > 1 else ""


def together(results: pd.DataFrame, plain: dict[str, str]) -> list[str]:
    """Return what finished campaigns say together, and what quarters of the holdout do.

    For shops in which each alone is too small to be read. plain: the arm of each campaign that
    counts, without a discount where there is one.
    """
    from ml.campaigns.holdout import CONTACTED, QUARTER
    from ml.campaigns.results import pooled_effect

    profit = results[results["metric"].eq("profit_amount") & results["is_final"].astype(bool)]
    newest = profit.sort_values("snapshot_date").drop_duplicates(
        ["campaign_id", "arm"], keep="last"
    )
    newest = newest[newest["arm"].eq(newest["campaign_id"].map(plain).fillna(CONTACTED))]
    is_quarter = newest["campaign_id"].str.startswith(QUARTER)
    lines = []
    for name, rows in (
        ("campaigns", newest[~is_quarter]),
        ("quarters of all campaigns against the global holdout", newest[is_quarter]),
    ):
        try:
            found = pooled_effect([rows], "profit_amount", relative=True)
        except ValueError:  # none is final and valid
            continue
        if found.count > 1:
            lines.append(
                f"  {found.count} {name} together: {found.effect:+.1%} [{found.low:+.1%}, "
                f"{found.high:+.1%}] of the control's profit, before cost"
            )
    return lines


def _reading(row: dict[Any, Any], truths: dict[tuple[str, str, str], float]) -> str:
    """Return the line of one reading, with the truth beside it where it is known."""
    from ml.campaigns.report import difference, sentence

    true = truths.get((row["campaign_id"], row["arm"], row["metric"]))
    text = f"    {sentence(row)}"
    if true is None or row["effect"] != row["effect"]:
        return text
    return f"{text}; simulated truth {difference(row['metric'], true)}"


def _truths(home: Home, results: pd.DataFrame) -> dict[tuple[str, str, str], float]:
    """Return the true effect per campaign, arm and metric; only a simulated shop knows it.

    Of the metrics that are final with the window: the simulation leaves returns out of its margin.
    """
    import json

    import pandas as pd

    if home.shop.source != "simulated" or results["effect"].notna().sum() == 0:
        return {}
    from ml.simulation import true_effects
    from ml.simulation.campaigns import CONTROL
    from orchestration.defs.campaigns.files import read_campaigns
    from orchestration.defs.sources.simulated import shop_config, treatments

    assert home.shop.last_day is not None
    record = json.loads(sorted((home.root / "simulated").glob("*.json"))[0].read_text())
    config = shop_config(home, record["n_customers"], record["seed"])
    sent = treatments(home, home.shop.last_day)
    assert sent is not None
    found: dict[tuple[str, str, str], float] = {}
    for campaign in read_campaigns(home):
        mine = sent["campaign_id"] == campaign.id
        for arm in campaign.arms:
            own = sent[mine & sent["arm"].isin([arm.name, CONTROL])]
            if arm.name == campaign.control_arm or own.empty:
                continue
            # The outcome counts from the day after assignment, which is the day of sending. The
            # contacts of the other campaigns happen with and without this one.
            effects = true_effects(
                config,
                pd.concat([own, sent[~mine]], ignore_index=True),
                campaign.id,
                campaign.outcome.window_days - 1,
                n_replicates=REPLICATES,
            ).mean(numeric_only=True)
            found |= {
                (campaign.id, arm.name, metric): effects[f"effect_{column}"]
                for metric, column in TRUE_METRICS.items()
            }
    return found


def _model(platform: Platform) -> str:
    from orchestration.defs.models.assets import CHURN_MODEL

    ref = platform.models.resolve(CHURN_MODEL)
    compared = platform.models.candidates(ref)
    how = (
        "all candidates on the same out-of-time customers"
        if compared
        else "not compared out of time"
    )
    lines = [
        f"CHAMPION MODEL: {ref.recipe}, version {ref.version}, labels up to "
        f"{ref.last_matured_date}; {how}",
    ]
    if compared:
        lines.append(
            f"  {'candidate':24}{'log loss':>9}{'ROC AUC':>9}{'avg prec':>9}{'lift@10%':>9}"
            f"{'Brier':>8}{'ECE':>7}"
        )
    for name, metrics in compared:
        lines.append(
            f"  {name:24}{metrics['log_loss']:9.4f}{metrics['roc_auc']:9.4f}"
            f"{metrics['average_precision']:9.4f}{metrics['top_decile_lift']:9.2f}"
            f"{metrics['brier']:8.4f}{metrics['ece']:7.3f}"
        )
    moves = platform.models.history(CHURN_MODEL)
    lines.append(f"  {moves[-1].kind}: {moves[-1].reason}")
    return "\n".join(lines)


def _where(home: Home, day: date) -> str:
    return "\n".join(
        [
            "WHERE THINGS ARE",
            f"  published tables (Delta)     {home.lake}",
            f"  at-risk list                 {home.exports / 'at_risk' / f'{day}.csv'}",
            f"  campaign files               {home.exports / 'campaigns'}",
            f"  quality reports              {home.data_docs / 'index.html'}",
            "",
            "WHAT NEXT",
            "  make up                      look around: Dagster and MLflow in the browser",
            "  make backfill FROM=... TO=...  run any days again, in one run",
            "  README.md                    bring your own data",
        ]
    )
