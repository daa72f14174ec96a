"""Who is in which arm: salted SHA-256 for the first assignment, the ledger for ever after.

What belongs here: the hash (in SQL, too), the order holdout -> layer -> coverage -> arm, new ledger
rows. What does not: who is eligible (eligibility.py), where the ledger lies.

u = (first 8 bytes of SHA-256("ab/v1" US key US unit), big-endian, >> 11) / 2^53, where US is the
unit separator 0x1f, which no key may contain. Each stage has a key (salt) of its own, so the stages
are independent of one another, and campaigns of one another. Alternatives were measured: FNV v1
left 24 of 28 dated pairs of campaigns correlated; ranking within strata flipped 42 % of arms after
1 % of late rows.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable
from datetime import date, timedelta

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.bandit import POOLED, probabilities
from ml.campaigns.definition import Campaign, refuse_changed
from ml.campaigns.strata import COLUMNS as STRATA
from ml.campaigns.strata import UNKNOWN

SEPARATOR = "\x1f"
NAMESPACE = "ab/v1"
LEDGER_COLUMNS = [
    "assigned_date",
    "campaign_id",
    "customer_key",
    "arm",
    "u_holdout",
    "u_layer",
    "u_coverage",
    "u_arm",
    "weights_json",
    "propensity",
    "config_sha256",
    "snapshot_date",
    "campaign_version",
    "layer",
    "is_control",
    "window_end_date",
    *STRATA,
    "launch_power",
    "segment",
]


def uniforms(
    experiment_key: str, units: Iterable[str], namespace: str = NAMESPACE
) -> npt.NDArray[np.float64]:
    """A number in [0, 1) per unit, a fixed function of (namespace, experiment_key, unit).

    Raises ValueError where a key contains the separator: ("a", "b US c") and ("a US b", "c")
    would otherwise be one.
    """
    prefix = hashlib.sha256(_prefix(experiment_key, namespace).encode())
    heads = bytearray()
    for unit in units:
        if SEPARATOR in unit:
            raise ValueError("a unit's key must not contain the separator 0x1f")
        digest = prefix.copy()
        digest.update(unit.encode())
        heads += digest.digest()[:8]
    return (np.frombuffer(bytes(heads), dtype=">u8") >> np.uint64(11)) / 2.0**53


def uniform_sql(experiment_key: str, unit: str, namespace: str = NAMESPACE) -> str:
    """The same number as a SQL expression of DuckDB over the column `unit`.

    For whoever wants to draw, or to check a draw, where the data lie. Raises ValueError where the
    key contains the separator; that no unit does is up to the caller.
    """
    prefix = _prefix(experiment_key, namespace).replace("'", "''")
    first_8_bytes = f"('0x' || substr(sha256('{prefix}' || {unit}), 1, 16))::ubigint"
    return f"(({first_8_bytes} >> 11) / {2**53}::double)"


def _prefix(experiment_key: str, namespace: str) -> str:
    if SEPARATOR in namespace or SEPARATOR in experiment_key:
        raise ValueError("namespace and experiment key must not contain the separator 0x1f")
    return f"{namespace}{SEPARATOR}{experiment_key}{SEPARATOR}"


def holdout_key(day: date) -> str:
    """Salt of the global holdout: constant within a calendar quarter, new in the next."""
    return f"__holdout__:{day.year}q{(day.month - 1) // 3 + 1}"


def coverage_key(campaign: Campaign) -> str:
    """Salt of the share of the eligible who take part."""
    return f"{campaign.id}:coverage"


def in_global_holdout(
    customer_keys: Iterable[str], day: date, share: float
) -> npt.NDArray[np.bool_]:
    """Which customers no campaign may contact in the quarter of `day`."""
    return uniforms(holdout_key(day), customer_keys) < share


def allocation(
    campaign: Campaign, policy: pd.DataFrame, customer_keys: pd.Series, segments: pd.Series
) -> pd.DataFrame:
    """What a policy (ml/policy.py) gives each customer: `segment`, and a column per arm.

    Indexed by customer_key. Who has no segment takes the probabilities of all.
    """
    known = segments.astype("object").where(segments.notna(), POOLED)
    known = known.where(known.isin(set(policy["segment"])), POOLED)
    arms = list(campaign.weights)
    frame = pd.DataFrame(
        probabilities(policy, known, arms),
        columns=arms,
        index=pd.Index(customer_keys, name="customer_key"),
    )
    frame.insert(0, "segment", known.to_numpy(dtype=object))
    return frame


def arms_by_weight(campaign: Campaign, u_arm: npt.NDArray[np.float64]) -> npt.NDArray[np.object_]:
    """The arm of each draw under the weights of the file; an arm's edges are half-open."""
    edges = np.cumsum(list(campaign.weights.values()))[:-1]
    return np.array(list(campaign.weights), dtype=object)[
        np.searchsorted(edges, u_arm, side="right")
    ]


def randomise(
    campaign: Campaign,
    customer_keys: Iterable[str],
    day: date,
    allocated: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The four draws of each customer, and the arm or the stage that left the customer out.

    allocated: see `allocation`; without it everybody's probabilities are the campaign's weights.
    Returns customer_key (sorted, unique), u_holdout, u_layer, u_coverage, u_arm, arm (null where
    left out) and exclusion_reason (global_holdout, outside_layer_share, outside_coverage or null).
    Raising the coverage never moves a customer who was in: the arm has a draw of its own.
    """
    keys = list(customer_keys)
    if not all(first < second for first, second in itertools.pairwise(keys)):
        keys = sorted(set(keys))
    frame = pd.DataFrame(
        {
            "customer_key": pd.Series(keys, dtype="str"),
            "u_holdout": uniforms(holdout_key(day), keys),
            "u_layer": uniforms(f"__layer__:{campaign.layer.name}", keys),
            "u_coverage": uniforms(coverage_key(campaign), keys),
            "u_arm": uniforms(campaign.id, keys),
        }
    )
    names = list(campaign.weights)
    if allocated is None:
        chosen = arms_by_weight(campaign, frame["u_arm"].to_numpy())
    else:
        own = allocated.loc[frame["customer_key"], names].to_numpy(dtype="float64")
        place = (frame["u_arm"].to_numpy()[:, None] >= np.cumsum(own, axis=1)[:, :-1]).sum(axis=1)
        chosen = np.array(names, dtype=object)[place]
    reason = np.select(
        [
            frame["u_holdout"] < campaign.global_holdout,
            ~frame["u_layer"].between(campaign.layer.start, campaign.layer.stop, inclusive="left"),
            frame["u_coverage"] >= campaign.coverage,
        ],
        ["global_holdout", "outside_layer_share", "outside_coverage"],
        default="",
    )
    left_out = reason != ""
    frame["arm"] = pd.Series(chosen, dtype="object").where(~left_out, None)
    frame["exclusion_reason"] = pd.Series(reason, dtype="object").where(left_out, None)
    return frame


def is_closed(campaign: Campaign, day: date, ledger: pd.DataFrame) -> bool:
    """Whether the ledger shows that `day` (or a later one) has been assigned for the campaign.

    A day on which nobody was enrolled leaves no row; a caller who knows that such a day ran says
    so with `closed=True`.
    """
    own = ledger.loc[ledger["campaign_id"] == campaign.id, "assigned_date"]
    return bool((own >= day).any())


def assign(
    campaign: Campaign,
    customer_keys: Iterable[str],
    day: date,
    ledger: pd.DataFrame,
    *,
    strata: pd.DataFrame | None = None,
    closed: bool = False,
) -> pd.DataFrame:
    """New ledger rows for the eligible customers; none on a closed day or outside the campaign.

    `ledger` holds all rows so far, of all campaigns. A customer who is in it keeps the arm: no row
    is returned for them, whatever the weights say today. `strata` (indexed by customer_key, columns
    `strata.COLUMNS`) is written down as it stands on the day. `propensity` is the probability of
    the arm given enrolment. Raises CampaignError where the campaign has changed since it started.
    """
    refuse_changed(campaign, ledger)
    if closed or not campaign.assigns_on(day) or is_closed(campaign, day, ledger):
        return empty_ledger()
    enrolled = ledger.loc[ledger["campaign_id"] == campaign.id, "customer_key"]
    drawn = randomise(campaign, set(customer_keys).difference(enrolled), day)
    return ledger_rows(campaign, drawn, day, strata)


def ledger_rows(
    campaign: Campaign,
    drawn: pd.DataFrame,
    day: date,
    strata: pd.DataFrame | None = None,
    allocated: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """The ledger rows of those among `drawn` (see `randomise`) who got an arm."""
    rows = drawn[drawn["arm"].notna()].reset_index(drop=True)
    if rows.empty:
        return empty_ledger()
    if allocated is None:
        rows["segment"] = None
        rows["weights_json"] = json.dumps(campaign.weights, sort_keys=True)
        rows["propensity"] = rows["arm"].map(campaign.weights).astype("float64")
    else:
        own = allocated.loc[rows["customer_key"]].reset_index(drop=True)
        arms = list(campaign.weights)
        table = {
            segment: dict(zip(arms, map(float, values), strict=True))
            for segment, *values in own.drop_duplicates("segment").itertuples(index=False)
        }
        text = {segment: json.dumps(p, sort_keys=True) for segment, p in table.items()}
        rows["segment"] = own["segment"]
        rows["weights_json"] = own["segment"].map(text)
        rows["propensity"] = [
            table[segment][arm] for segment, arm in zip(rows["segment"], rows["arm"], strict=True)
        ]
    if strata is None:
        rows[list(STRATA)] = UNKNOWN
    else:
        known = strata.reindex(pd.Index(rows["customer_key"])).fillna(UNKNOWN)
        rows[list(STRATA)] = known[list(STRATA)].to_numpy(dtype=object)
    return rows.assign(
        assigned_date=day,
        campaign_id=campaign.id,
        config_sha256=campaign.config_sha256,
        snapshot_date=day,
        campaign_version=campaign.version,
        layer=campaign.layer.name,
        is_control=(rows["arm"] == campaign.control_arm).astype("object"),
        window_end_date=day + timedelta(days=campaign.outcome.window_days),
        launch_power=None,  # see launch.py
    )[LEDGER_COLUMNS]


def empty_ledger() -> pd.DataFrame:
    """A ledger without rows, with its columns and types."""
    kinds = dict.fromkeys(LEDGER_COLUMNS, "object")
    kinds |= dict.fromkeys(["u_holdout", "u_layer", "u_coverage", "u_arm", "propensity"], "float64")
    return pd.DataFrame({column: pd.Series(dtype=kind) for column, kind in kinds.items()})
