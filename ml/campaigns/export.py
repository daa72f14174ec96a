"""The cohort as files for the tool of each channel: minimal, consented, approved, safe to open.

What belongs here: who is really handed over, by which channel, and the bytes. What does not: where
the bytes go, how identities are looked up.

CSV follows RFC 4180 and OWASP ASVS 5.0, 1.2.10: a text cell that a spreadsheet could take for a
formula gets a leading apostrophe. Numbers stay numbers. Parquet and NDJSON are typed and carry the
text as it is.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date
from typing import get_args

import pandas as pd

from ml.campaigns.addresses import Field, hashed, normalise
from ml.campaigns.assignment import in_global_holdout
from ml.campaigns.definition import MARKETING, Campaign, Channel
from ml.campaigns.eligibility import has_consent
from ml.frames import join_customers

# Which identity each channel needs. For push and post the shop's own tool knows the address; an
# audience of an advertiser is made of hashes, and of nothing that names a person.
_ADDRESS: Mapping[str, tuple[Field, ...]] = {
    "email": ("email",),
    "sms": ("phone",),
    "phone": ("phone",),
    "push": (),
    "post": (),
    "ads": ("email", "phone"),
}

_FORMULA_START = frozenset("=+-@|%＝＋－＠")
_CONTROL_START = frozenset("\t\r\n\0")
_INVISIBLE = frozenset("\u200b\u200c\u200d\u2060\u00ad\u180e\ufeff\u200e\u200f\u202a\u202b\u202c")


class ExportRefusedError(ValueError):
    """An export without dry run, without approver, or of something else than was approved."""


@dataclass(frozen=True)
class Handover:
    """What is handed over, by whose leave and by which channels.

    `offers`: play and words of each arm that gets something; an arm without an entry gets nothing.
    `fingerprint` stands for the file that all this comes from.
    """

    id: str
    name: str
    approver: str
    channels: tuple[Channel, ...]
    offers: Mapping[str, tuple[str, str]]
    global_holdout: float
    fingerprint: str
    purpose: str = MARKETING

    @classmethod
    def of(cls, campaign: Campaign) -> Handover:
        """The handover of a campaign: its treated arms."""
        return cls(
            campaign.id,
            campaign.name,
            campaign.approver,
            campaign.channels,
            {
                arm.name: (arm.play, arm.offer)
                for arm in campaign.arms
                if arm.name != campaign.control_arm
            },
            campaign.global_holdout,
            campaign.config_sha256,
            campaign.purpose,
        )


@dataclass(frozen=True)
class DryRun:
    """What an export would hand over: counts, no identities.

    `token` stands for exactly this selection; the export asks for it back.
    """

    campaign_id: str
    export_date: date
    rows_per_arm: dict[str, int]
    rows_per_channel: dict[str, int]
    dropped: dict[str, int]
    token: str

    @property
    def rows(self) -> int:
        """Customers who would be handed over."""
        return sum(self.rows_per_arm.values())


@dataclass(frozen=True)
class Export:
    """One frame per channel, as its tool gets it, and what went into them.

    `cohort` has the customer_key, channel and arm of each row, channel by channel in the order of
    the frames: for the record, and not for a tool.
    """

    frames: dict[str, pd.DataFrame]
    cohort: pd.DataFrame
    dry_run: DryRun
    approver: str


def dry_run(
    campaign: Handover,
    cohort: pd.DataFrame,
    identities: pd.DataFrame,
    status: pd.DataFrame,
    export_date: date,
    handed_over: Collection[str] = (),
    suppressed: Collection[str] = (),
) -> DryRun:
    """Count what `export_cohort` would hand over with the same arguments."""
    return _select(
        campaign, cohort, identities, status, export_date, handed_over, suppressed
    ).dry_run


def export_cohort(
    campaign: Handover,
    cohort: pd.DataFrame,
    identities: pd.DataFrame,
    status: pd.DataFrame,
    export_date: date,
    handed_over: Collection[str] = (),
    suppressed: Collection[str] = (),
    *,
    approver: str,
    token: str,
) -> Export:
    """The frames for the tools: the treated arms of a cohort, never the control.

    `cohort` is campaign_cohorts of the assignment day; `identities` has customer_key, customer_id,
    email, phone of the vault; `status` is customer_status of `export_date`: consent is judged
    again there, for the campaign's purpose, and a customer unknown to it, `suppressed`, or drawn
    into that quarter's holdout, is dropped (they stay in their arm for the outcome). Each customer
    is reached by the first of the campaign's channels that they consent to and have an address for.
    `handed_over`: keys of earlier exports; neither they nor another account with the address of one
    of them is handed over again. Columns: customer_id, the channel's address, campaign_id, arm,
    play, offer; for ads email_sha256, phone_sha256, campaign_id, arm.

    Raises ExportRefusedError unless `approver` is the campaign's approver and `token` is that of
    a dry run with the same selection.
    """
    if approver.strip().casefold() != campaign.approver.casefold() or not approver.strip():
        raise ExportRefusedError(
            f"campaign {campaign.id} is approved by {campaign.approver}, not by {approver!r}"
        )
    found = _select(campaign, cohort, identities, status, export_date, handed_over, suppressed)
    if token != found.dry_run.token:
        raise ExportRefusedError(
            f"campaign {campaign.id}: the token is not that of a dry run of this selection "
            f"({found.dry_run.rows} customers on {export_date}); make a dry run first"
        )
    return found


def _select(
    campaign: Handover,
    cohort: pd.DataFrame,
    identities: pd.DataFrame,
    status: pd.DataFrame,
    export_date: date,
    handed_over: Collection[str],
    suppressed: Collection[str],
) -> Export:
    if set(cohort["campaign_id"]) - {campaign.id}:
        raise ValueError(f"the cohort holds other campaigns than {campaign.id}")
    if not (pd.to_datetime(status["snapshot_date"]).dt.date == export_date).all():
        raise ValueError(f"consent must be judged on {export_date}: status is of another day")
    treated = cohort["arm"].isin(list(campaign.offers))
    frame = join_customers(cohort.loc[treated, ["customer_key", "arm"]], identities, how="left")
    frame = frame.sort_values("customer_key", ignore_index=True)
    dropped: dict[str, int] = {}

    def drop(mask: pd.Series, reason: str) -> None:
        nonlocal frame
        dropped[reason] = int(mask.sum())
        frame = frame[~mask].reset_index(drop=True)

    before = frame[frame["customer_key"].isin(list(handed_over))]
    drop(frame["customer_key"].isin(before["customer_key"]), "already_exported")
    drop(frame["customer_id"].isna(), "no_identity")
    drop(frame["customer_key"].isin(list(suppressed)), "suppressed")
    allowed: dict[str, pd.Series] = {
        channel: frame["customer_key"].isin(
            status.loc[has_consent(channel, status, campaign.purpose), "customer_key"]
        )
        for channel in campaign.channels
    }
    unreached = ~pd.DataFrame(allowed).any(axis=1)
    frame["channel"] = _channels(campaign, frame, allowed)
    drop(unreached, "no_consent")
    held_out = in_global_holdout(frame["customer_key"], export_date, campaign.global_holdout)
    drop(pd.Series(held_out, index=frame.index), "global_holdout")
    drop(frame["channel"].isna(), "no_address")
    # One person with two accounts gets one message.
    drop(_is_double(frame, before), "duplicate_address")

    frame["campaign_id"] = campaign.id
    for place, field in enumerate(("play", "offer")):
        frame[field] = frame["arm"].map({arm: it[place] for arm, it in campaign.offers.items()})
    frames: dict[str, pd.DataFrame] = {
        channel: _columns_of(channel, rows.reset_index(drop=True))
        for channel in campaign.channels
        if len(rows := frame[frame["channel"] == channel])
    }
    rows_of = pd.concat(
        [frame.loc[frame["channel"] == c, ["customer_key", "channel", "arm"]] for c in frames]
        or [frame.loc[[], ["customer_key", "channel", "arm"]]],
        ignore_index=True,
    )
    per_arm = {name: int(frame["arm"].eq(name).sum()) for name in campaign.offers}
    per_channel = {channel: len(rows) for channel, rows in frames.items()}
    lines = [
        f"{key}={arm}={channel}"
        for key, channel, arm in rows_of.sort_values("customer_key").itertuples(index=False)
    ]
    content = "\n".join([campaign.fingerprint, export_date.isoformat(), *lines])
    token = hashlib.sha256(content.encode()).hexdigest()[:16]
    counts = DryRun(campaign.id, export_date, per_arm, per_channel, dropped, token)
    return Export(frames, rows_of, counts, campaign.approver)


def _channels(
    campaign: Handover, frame: pd.DataFrame, allowed: Mapping[str, pd.Series]
) -> pd.Series:
    """The first channel that each row's customer consents to and has an address for, or null."""
    found = pd.Series(None, index=frame.index, dtype="object")
    for channel in campaign.channels:
        fields = _ADDRESS[channel]
        is_there = pd.Series(not fields, index=frame.index)
        for field in fields:
            is_there |= _addresses(channel, field, frame).ne("")
        found = found.mask(found.isna() & allowed[channel] & is_there, channel)
    return found


def _addresses(channel: str, field: Field, frame: pd.DataFrame) -> pd.Series:
    """The addresses as the channel's tool gets them compared; empty where there is none."""
    write = hashed if channel == "ads" else normalise
    given = frame[field].fillna("").astype(str)
    return given.map(lambda text: write(field, text)).astype("object")


def _is_double(frame: pd.DataFrame, before: pd.DataFrame) -> pd.Series:
    """Whether an address stands in an earlier row, or was handed over before."""
    double = pd.Series(False, index=frame.index)
    for field in get_args(Field):
        used_by = [channel for channel, fields in _ADDRESS.items() if field in fields]
        plain, known = (
            rows[field].fillna("").astype(str).map(lambda text, of=field: normalise(of, text))
            for rows in (frame, before)
        )
        asked = frame["channel"].isin(used_by) & plain.ne("")
        double |= asked & (plain.where(asked).duplicated() | plain.isin(set(known) - {""}))
    return double


def _columns_of(channel: str, rows: pd.DataFrame) -> pd.DataFrame:
    if channel == "ads":
        for field in _ADDRESS[channel]:
            rows[f"{field}_sha256"] = _addresses(channel, field, rows)
        return rows[["email_sha256", "phone_sha256", "campaign_id", "arm"]]
    return rows[["customer_id", *_ADDRESS[channel], "campaign_id", "arm", "play", "offer"]]


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


def ndjson_bytes(frame: pd.DataFrame) -> bytes:
    """One JSON object a row and line, UTF-8, keys in the order of the columns."""
    rows = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


FORMATS = {"csv": csv_bytes, "parquet": parquet_bytes, "ndjson": ndjson_bytes}


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
