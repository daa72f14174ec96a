"""The cohort as files for the e-mail tool: minimal, consented, approved, safe in a spreadsheet.

What belongs here: who is really handed over, and the bytes. What does not: where the bytes go, how
identities are looked up.

CSV follows RFC 4180 and OWASP ASVS 5.0, 1.2.10: a text cell that a spreadsheet could take for a
formula gets a leading apostrophe. Numbers stay numbers. Parquet is typed and carries the text as it
is.
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date

import pandas as pd

from ml.campaigns.assignment import in_global_holdout
from ml.campaigns.definition import Campaign
from ml.campaigns.eligibility import has_consent

# Which identity each channel needs. For post the shop's own tool knows the address.
_ADDRESS = {"email": "email", "sms": "phone", "phone": "phone", "post": None}

_FORMULA_START = frozenset("=+-@|%＝＋－＠")
_CONTROL_START = frozenset("\t\r\n\0")
_INVISIBLE = frozenset("\u200b\u200c\u200d\u2060\u00ad\u180e\ufeff\u200e\u200f\u202a\u202b\u202c")


class ExportRefusedError(ValueError):
    """An export without dry run, without approver, or of something else than was approved."""


@dataclass(frozen=True)
class DryRun:
    """What an export would hand over: counts, no identities.

    `token` stands for exactly this selection; the export asks for it back.
    """

    campaign_id: str
    export_date: date
    rows_per_arm: dict[str, int]
    dropped: dict[str, int]
    token: str

    @property
    def rows(self) -> int:
        """Customers who would be handed over."""
        return sum(self.rows_per_arm.values())


@dataclass(frozen=True)
class Export:
    """Two files with the same rows, and what went into them."""

    csv: bytes
    parquet: bytes
    dry_run: DryRun
    approver: str
    customer_keys: tuple[str, ...]  # of the rows, for the record; not in the files


def dry_run(
    campaign: Campaign,
    cohort: pd.DataFrame,
    identities: pd.DataFrame,
    status: pd.DataFrame,
    export_date: date,
    handed_over: Collection[str] = (),
) -> DryRun:
    """Count what `export_cohort` would hand over with the same arguments."""
    return _select(campaign, cohort, identities, status, export_date, handed_over)[1]


def export_cohort(
    campaign: Campaign,
    cohort: pd.DataFrame,
    identities: pd.DataFrame,
    status: pd.DataFrame,
    export_date: date,
    handed_over: Collection[str] = (),
    *,
    approver: str,
    token: str,
) -> Export:
    """The files for the e-mail tool: the treated arms of a cohort, never the control.

    `cohort` is campaign_cohorts of the assignment day; `identities` has customer_key, customer_id,
    email, phone of the vault; `status` is customer_status of `export_date`: consent is judged
    again there, and a customer unknown to it, or drawn into that quarter's holdout, is dropped
    (they stay in their arm for the outcome). `handed_over`: keys of earlier exports; neither they
    nor another account with the address of one of them is handed over again. Columns: customer_id,
    the channel's address, campaign_id, arm, play, offer.

    Raises ExportRefusedError unless `approver` is the campaign's approver and `token` is that of
    a dry run with the same selection.
    """
    if approver.strip().casefold() != campaign.approver.casefold() or not approver.strip():
        raise ExportRefusedError(
            f"campaign {campaign.id} is approved by {campaign.approver}, not by {approver!r}"
        )
    frame, counts, keys = _select(campaign, cohort, identities, status, export_date, handed_over)
    if token != counts.token:
        raise ExportRefusedError(
            f"campaign {campaign.id}: the token is not that of a dry run of this selection "
            f"({counts.rows} customers on {export_date}); make a dry run first"
        )
    return Export(csv_bytes(frame), parquet_bytes(frame), counts, campaign.approver, keys)


def _select(
    campaign: Campaign,
    cohort: pd.DataFrame,
    identities: pd.DataFrame,
    status: pd.DataFrame,
    export_date: date,
    handed_over: Collection[str],
) -> tuple[pd.DataFrame, DryRun, tuple[str, ...]]:
    if set(cohort["campaign_id"]) - {campaign.id}:
        raise ValueError(f"the cohort holds other campaigns than {campaign.id}")
    if "snapshot_date" in status and set(pd.to_datetime(status["snapshot_date"]).dt.date) - {
        export_date
    }:
        raise ValueError(f"consent must be judged on {export_date}: status is of another day")
    treated = cohort[cohort["arm"].notna() & (cohort["arm"] != campaign.control_arm)]
    frame = (
        treated[["customer_key", "arm"]]
        .merge(identities, on="customer_key", how="left", validate="one_to_one")
        .sort_values("customer_key")
        .reset_index(drop=True)
    )
    consented = set(status.loc[has_consent(campaign.channel, status), "customer_key"])
    dropped: dict[str, int] = {}

    def drop(mask: pd.Series, reason: str) -> None:
        nonlocal frame
        dropped[reason] = int(mask.sum())
        frame = frame[~mask].reset_index(drop=True)

    before = frame[frame["customer_key"].isin(list(handed_over))]
    drop(frame["customer_key"].isin(before["customer_key"]), "already_exported")
    drop(frame["customer_id"].isna(), "no_identity")
    drop(~frame["customer_key"].isin(consented), "no_consent")
    held_out = in_global_holdout(frame["customer_key"], export_date, campaign.global_holdout)
    drop(pd.Series(held_out, index=frame.index), "global_holdout")
    columns = ["customer_id", "campaign_id", "arm", "play", "offer"]
    if (address := _ADDRESS[campaign.channel]) is not None:
        text = frame[address].fillna("").astype(str).str.strip()
        drop(text.eq(""), "no_address")
        # One person with two accounts gets one message.
        plain = frame[address].astype(str).str.strip().str.casefold()
        taken = set(before[address].dropna().astype(str).str.strip().str.casefold())
        drop(plain.duplicated() | plain.isin(taken), "duplicate_address")
        columns.insert(1, address)
    frame["campaign_id"] = campaign.id
    for field in ("play", "offer"):
        values: Mapping[str, str] = {arm.name: getattr(arm, field) for arm in campaign.arms}
        frame[field] = frame["arm"].map(values)
    names = [arm.name for arm in campaign.arms if arm.name != campaign.control_arm]
    rows = {name: int(frame["arm"].eq(name).sum()) for name in names}
    keys = [f"{key}={arm}" for key, arm in zip(frame["customer_key"], frame["arm"], strict=True)]
    content = "\n".join([campaign.config_sha256, export_date.isoformat(), *keys])
    token = hashlib.sha256(content.encode()).hexdigest()[:16]
    found = DryRun(campaign.id, export_date, rows, dropped, token)
    return frame[columns], found, tuple(frame["customer_key"])


def csv_bytes(frame: pd.DataFrame) -> bytes:
    """UTF-8 CSV with CRLF, quoted text, and no cell or header that begins a formula."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow([guard(str(column)) for column in frame.columns])
    for row in frame.astype(object).itertuples(index=False, name=None):
        writer.writerow([_cell(value) for value in row])
    return text.getvalue().encode("utf-8")


def parquet_bytes(frame: pd.DataFrame) -> bytes:
    """Parquet of the same rows; text columns are strings."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(
        pa.Table.from_pandas(frame, preserve_index=False).replace_schema_metadata(), sink
    )
    return sink.getvalue().to_pybytes()


def guard(text: str) -> str:
    """`text`, with a leading apostrophe if a spreadsheet could run it.

    Apostrophes that already stand before such a text get one more, so `unguard` is exact.
    """
    return "'" + text if _is_dangerous(text.lstrip("'")) else text


def unguard(text: str) -> str:
    """The text that `guard` was given."""
    return text[1:] if text.startswith("'") and _is_dangerous(text.lstrip("'")) else text


def _is_dangerous(text: str) -> bool:
    if text[:1] in _CONTROL_START and text:
        return True
    for character in text:
        if not (character.isspace() or character in _INVISIBLE or ord(character) < 32):
            return character in _FORMULA_START
    return False


def _cell(value: object) -> object:
    if value is None or value is pd.NA or value is pd.NaT or value != value:
        return None
    return guard(value) if isinstance(value, str) else value
