"""A shop of a few hundred customers, run through the real code: what the end-to-end tests share.

Here belongs making, copying and reading such a home. The order of the runs is in conftest.py.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import sqlite3
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

import pandas as pd

from orchestration.defs.sources.contract import load_contract
from orchestration.defs.sources.landing import write_landing
from orchestration.defs.sources.simulated import simulate_into
from orchestration.resources.content import content_hash
from orchestration.resources.home import Home, Shop, write_atomically
from orchestration.resources.platform import Platform
from orchestration.runs import run_days, run_history, run_training
from orchestration.settings import Settings
from orchestration.tables import all_tables

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    import dagster as dg

# Windows shorter than the defaults: the history is short, and a setting that is passed over shows.
SHOP = Shop(
    "Europe/Berlin",
    "EUR",
    date(2024, 8, 15),
    date(2025, 6, 3),
    active_window_days=120,
    horizon_days=42,
    source="simulated",
)
CUSTOMERS, SEED = 600, 11
ENROLLED = date(2025, 5, 25)
FIRST = ENROLLED + timedelta(days=1)
EMPTY = ENROLLED + timedelta(days=4)  # nothing at all is delivered for this day
LAST_RUN = EMPTY
LAST = LAST_RUN + timedelta(days=2)  # delivered, not run yet
MODEL_FILE = "model.skops"

ENVIRONMENT = {
    "HOLDFAST_SECRET": "the-secret-of-the-end-to-end-tests",
    "HOLDFAST_DBT_THREADS": "2",
    "HOLDFAST_TRAINING_ORIGINS": "1",
    "HOLDFAST_TRAINING_STEP_DAYS": "21",
    "HOLDFAST_AT_RISK_CAPACITY": "40",
}

CAMPAIGN_ID = "stay_with_us_1"
APPROVER = "Head of CRM"
CAMPAIGN = f"""
id: {CAMPAIGN_ID}
name: Stay with us
objective: A coupon for whoever is still a customer.
approver: {APPROVER}
start_date: {ENROLLED}
channels: [email]
arms:
  - {{name: control, weight: 0.3, play: none}}
  - {{name: reminder, weight: 0.2, play: reminder, offer: "=We miss you"}}
  - {{name: coupon, weight: 0.5, play: coupon, offer: "=10 off your next order"}}
control_arm: control
audience: [{{field: lifecycle, operator: "=", value: active}}]
outcome:
  window_days: 3
  return_lag_days: 1
  primary_metric: retained
  minimum_effects: {{retained: 0.05}}
contact_cost_amount: 0.05
if_underpowered: mark
"""

# What must never leave the vault, in a form that nothing else takes. The address is a formula too.
CANARY = "canary"
BUSINESS_TIME = {
    table.name: table.event_time for table in load_contract().tables if table.event_time
}


def canary_email(customer_id: str) -> str:
    """An address that names the customer and that a spreadsheet would run."""
    return f"=Canary.{customer_id}@planted.example"


def deliver(home: Home, start: date, end: date, empty: Sequence[date] = ()) -> None:
    """Let the simulated shop deliver [start, end), with marked identities, nothing on `empty`."""
    simulate_into(home, start, end, CUSTOMERS, SEED, lambda text: None)
    name = f"{start}_{end - timedelta(days=1)}"
    dropped: set[str] = set()
    for table in load_contract().tables:
        path = home.landing / table.name / f"{name}.parquet"
        frame = pd.read_parquet(path)
        if table.name == "customers":
            ids = frame["customer_id"]
            frame["email"] = ids.map(canary_email).where(frame["email"].notna())
            frame["name"] = "Canary Planted " + ids
            frame["phone"] = ("+49555" + ids.str[1:]).where(frame["phone"].notna())
        if table.name in BUSINESS_TIME:
            gone = shop_days(frame[BUSINESS_TIME[table.name]]).isin(list(empty))
            if table.name == "orders":
                dropped = set(frame.loc[gone, "order_id"])
            frame = frame[~gone]
        elif "order_id" in frame:
            frame = frame[~frame["order_id"].isin(dropped)]
        write_landing(home.landing, table, frame, name)


def shop_days(at: pd.Series) -> pd.Series:
    """The shop day of each UTC timestamp."""
    return pd.to_datetime(at, utc=True).dt.tz_convert(ZoneInfo(SHOP.shop_timezone)).dt.date


def land(home: Home, table: str, name: str, rows: list[dict[str, object]]) -> Path:
    """Deliver some rows as a CSV file; timestamps are text with a zone."""
    folder = home.landing / table
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.csv"
    pd.DataFrame(rows).to_csv(path, index=False)
    return path


def train(home: Home) -> Home:
    """Build the history and the models as of the day of enrolment."""
    run_history(home, ENROLLED, every_days=21)
    run_training(home, ENROLLED)
    return home


@dataclass
class Enrolled:
    """A shop after its first daily run, the export of its campaign, and four more days."""

    home: Home
    days_after_one_run: dict[str, list[date]]
    preview: str
    exported: list[Path]
    withdrew: str  # customer_id of a treated customer who withdrew consent after the assignment
    log: str = ""
    read: Platform = field(init=False)

    def __post_init__(self) -> None:
        self.read = platform(self.home)


def platform(home: Home) -> Platform:
    """The collaborators of a home."""
    return Platform(root=str(home.root))


def token_in(preview: str) -> str:
    """The token that a dry run printed."""
    return preview.rsplit("--token ", 1)[1].strip()


def enrol(home: Home) -> Enrolled:
    """Run the first day, export its campaign, let it work, run the days after it in one run."""
    from orchestration.defs.campaigns.export import export, preview

    write_atomically(home.campaigns / "stay.yaml", CAMPAIGN.encode())
    run_days(home, ENROLLED, ENROLLED)
    lake = platform(home).lake
    days = {name: lake.days(table) for name, table in all_tables().items()}
    text = preview(home, CAMPAIGN_ID, ENROLLED)
    paths = export(home, CAMPAIGN_ID, ENROLLED, APPROVER, token_in(text))
    withdrew = pd.read_parquet(paths[1])["customer_id"].sort_values().iloc[0]
    deliver(home, FIRST, LAST + timedelta(days=1), empty=[EMPTY])
    at = f"{ENROLLED + timedelta(days=2)}T12:00:00Z"
    row = {"customer_id": withdrew, "channel": "email", "status": "revoked", "changed_at": at}
    land(home, "consents", "withdrawn", [row])
    run_days(home, FIRST, LAST_RUN)
    return Enrolled(home, days, text, paths, withdrew)


# -- copies ----------------------------------------------------------------------------------------


def copy_home(home: Home, root: Path) -> Home:
    """Copy a home into another folder, and tell MLflow, which keeps absolute paths, about it."""
    shutil.copytree(home.root, root)
    with contextlib.closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        tables = [
            name
            for (name,) in connection.execute("select name from sqlite_master where type = 'table'")
        ]
        for table in tables:
            for column in connection.execute(f"pragma table_info({table})").fetchall():
                if column[2].upper().startswith(("VARCHAR", "TEXT")):
                    connection.execute(
                        f'update {table} set "{column[1]}" = replace("{column[1]}", ?, ?) '
                        f'where instr("{column[1]}", ?)',
                        (str(home.root), str(root), str(home.root)),
                    )
    return Home.open(root)


# -- what is in a home -----------------------------------------------------------------------------


def hashes(home: Home) -> dict[tuple[str, str], str]:
    """Content hash of each published partition, taken from the rows and not from the index."""
    lake = platform(home).lake
    return {
        (name, day.isoformat()): content_hash(lake.read(table, [day]).combine_chunks())
        for name, table in all_tables().items()
        for day in lake.days(table)
    }


def differences(
    one: Mapping[tuple[str, str], str], other: Mapping[tuple[str, str], str]
) -> list[tuple[str, str]]:
    """Partitions that only one of the two has, or that differ."""
    return sorted(key for key in {*one, *other} if one.get(key) != other.get(key))


def delivered(home: Home, table: str, key: Sequence[str]) -> pd.DataFrame:
    """The rows that the shop delivered, the latest version per key, read without the platform."""
    files = sorted((home.landing / table).glob("*.parquet"))
    rows = pd.concat([pd.read_parquet(path) for path in files], ignore_index=True)
    return rows.drop_duplicates(list(key), keep="last").reset_index(drop=True)


# -- runs ------------------------------------------------------------------------------------------


def definitions(home: Home) -> dg.Definitions:
    """The platform of a home."""
    from orchestration.definitions import build_defs

    settings = Settings().model_copy(update={"home": home.root})
    return build_defs(settings, shop=home.shop)


def run_assets(
    home: Home,
    names: Sequence[str],
    day: date,
    tags: Mapping[str, str] | None = None,
) -> dg.ExecuteInProcessResult:
    """Materialise only `lake/<name>` for some names, as one does in the UI: a run of its own."""
    import dagster as dg

    from orchestration.resources.instance import open_instance

    with open_instance(home) as instance:
        job = definitions(home).resolve_job_def("daily")
        return job.execute_in_process(
            instance=instance,
            partition_key=day.isoformat(),
            tags=dict(tags or {}),
            asset_selection=[dg.AssetKey(["lake", name]) for name in names],
            raise_on_error=False,
        )


def messages(result: dg.ExecuteInProcessResult) -> str:
    """What the failed steps of a run said."""
    from orchestration.runs import _why

    return _why(result)


def told(home: Home, name: str, day: date) -> dict[str, object]:
    """The metadata of the last materialisation of a day."""
    import dagster as dg

    from orchestration.resources.instance import open_instance

    with open_instance(home) as instance:
        records = instance.fetch_materializations(
            dg.AssetRecordsFilter(
                asset_key=dg.AssetKey(["lake", name]), asset_partitions=[day.isoformat()]
            ),
            limit=1,
        ).records
    found = records[0].asset_materialization
    assert found is not None
    return {key: value.value for key, value in found.metadata.items()}


def check_result(home: Home, asset: str, name: str) -> dg.AssetCheckResult:
    """Evaluate one of the platform's own checks now."""
    from orchestration.defs.checks import platform_checks

    for check in platform_checks():
        for key in check.check_keys:
            if key.name == name and key.asset_key.path[-1] == asset:
                return check(platform(home))  # type: ignore[return-value]
    raise LookupError(f"{asset} has no check {name}")


@contextmanager
def captured() -> Iterator[io.StringIO]:
    """What runs print meanwhile."""
    text = io.StringIO()
    with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
        yield text
