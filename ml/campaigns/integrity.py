"""Whether the parts of a campaign agree: one customer had one treatment, and strata make the total.

What belongs here: checks of a reading against the ledger and the customers it was made of. What
does not: who is missing (ml/experiments/srm.py), what follows for the verdict (results.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from ml.experiments.moments import Codes

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
# GrowthBook's level. Below it the effect is diluted by less than its own rounding.
MULTIPLE_EXPOSURE_ALARM = 0.01
IN_OTHER_CAMPAIGN = "in another campaign of the layer"
CONTROL_CONTACTED = "controls who got the message"
OTHER_ARM_SENT = "who got the message of another arm"
OTHER_ARM = "with outcomes of another arm than was drawn"
# What to do about each.
REMEDIES = {
    IN_OTHER_CAMPAIGN: "keep the windows or the shares of the layer's campaigns apart",
    CONTROL_CONTACTED: "find out which tool wrote to the control",
    OTHER_ARM_SENT: "find out which tool mixed the arms up, and have it say `arm` as exported",
    OTHER_ARM: "restore the ledger, and run campaign_outcomes again",
}
# Of the mean absolute value. Over a million customers in 15 strata two orders of summing differed
# by 4e-15; one customer in a wrong stratum moves the effect of a million by about 1e-6.
ROUNDING = 1e-8


@dataclass(frozen=True)
class Exposure:
    """How many of the customers assigned so far had more than one treatment, and which ones.

    kinds: customers per way; one who is there in two ways counts in both, and once in `customers`.
    """

    customers: int
    assigned: int
    kinds: Mapping[str, int]

    @property
    def is_alarming(self) -> bool:
        """Whether more than 1 % had."""
        return self.customers > MULTIPLE_EXPOSURE_ALARM * self.assigned

    @property
    def reason(self) -> str:
        """How many, of which kind, and, where they are too many, what to do."""
        told = ", ".join(f"{count:,} {kind}" for kind, count in self.kinds.items())
        text = (
            f"{self.customers:,} of {self.assigned:,} customers "
            f"({self.customers / self.assigned:.1%}) had more than one treatment: {told}"
        )
        if not self.is_alarming:
            return text
        remedy = "; ".join(REMEDIES[kind] for kind in self.kinds)
        return f"{text}. The effect is not this campaign's alone: {remedy}, then test again"


def multiple_exposures(
    ledger: pd.DataFrame,
    outcomes: pd.DataFrame,
    *,
    campaign_id: str,
    control_arm: str,
    window_days: int,
    others: pd.DataFrame | None = None,
) -> pd.DataFrame:
    """Return customer_key, kind, since: who had another treatment beside the arm that was drawn.

    ledger: the campaign's rows, one per customer: customer_key, arm, assigned_date; with others
    also layer. outcomes: customer_key, and where known `arm` (as measured), is_sent and
    is_sent_other_arm (a control counts as contacted, whatever was sent). others: the ledger of all
    campaigns: campaign_id, customer_key, layer, assigned_date, window_end_date.

    Two campaigns of one layer share a customer where their windows, half-open (assigned, end],
    overlap, the control's included. since: the day at whose end it is known, so that a look never
    changes afterwards: the later of the two assignments, else the end of the customer's window.
    """
    units, rows = pd.Index(ledger["customer_key"]), pd.Index(outcomes["customer_key"])
    assigned = pd.to_datetime(ledger["assigned_date"]).to_numpy().astype("datetime64[D]")
    ends: npt.NDArray[np.datetime64] = np.asarray(assigned + np.timedelta64(window_days, "D"))
    found: list[tuple[str, Codes, npt.NDArray[np.datetime64]]] = []
    if others is not None and len(ledger):
        same = others["layer"].eq(ledger["layer"].iloc[0]) & others["campaign_id"].ne(campaign_id)
        held = others.loc[same]  # first, since keys are dear to look up: 1.8 s a million
        at = units.get_indexer(pd.Index(held["customer_key"])) if len(held) else np.zeros(0, int)
        held, at = held[at >= 0], at[at >= 0]
        start, stop = (
            pd.to_datetime(held[name]).to_numpy().astype("datetime64[D]")
            for name in ("assigned_date", "window_end_date")
        )
        since = np.maximum(start, assigned[at])
        shared = since < np.minimum(stop, ends[at])
        found.append((IN_OTHER_CAMPAIGN, at[shared], since[shared]))
    aligned = len(units) == len(rows) and bool(units.equals(rows))
    at = np.arange(len(units)) if aligned else units.get_indexer(rows)
    known = at >= 0
    at = at[known]
    drawn = ledger["arm"].to_numpy(dtype=object)[at]
    if "is_sent" in outcomes:
        is_sent = outcomes["is_sent"].to_numpy(dtype=bool, na_value=False)[known]
        wrong = at[is_sent & (drawn == control_arm)]
        found.append((CONTROL_CONTACTED, wrong, ends[wrong]))
    if "is_sent_other_arm" in outcomes:
        is_other = outcomes["is_sent_other_arm"].to_numpy(dtype=bool, na_value=False)[known]
        wrong = at[is_other & (drawn != control_arm)]
        found.append((OTHER_ARM_SENT, wrong, ends[wrong]))
    if "arm" in outcomes:
        wrong = at[outcomes["arm"].to_numpy(dtype=object)[known] != drawn]
        found.append((OTHER_ARM, wrong, ends[wrong]))
    frame = pd.DataFrame(
        {
            "customer_key": units[np.concatenate([at for _, at, _ in found] or [at[:0]])],
            "kind": np.repeat([kind for kind, _, _ in found], [len(at) for _, at, _ in found]),
            "since": np.concatenate([since for *_, since in found] or [ends[:0]]),
        }
    )
    frame = frame.sort_values(["customer_key", "kind", "since"], kind="stable")
    return frame.drop_duplicates(["customer_key", "kind"]).reset_index(drop=True)


def exposure_on(exposures: pd.DataFrame, day: np.datetime64, assigned: int) -> Exposure | None:
    """What `multiple_exposures` found by the end of `day` among `assigned` customers, or None."""
    known = exposures[exposures["since"] <= day]
    if known.empty:
        return None
    counts = known["kind"].value_counts()
    kinds = {kind: int(counts[kind]) for kind in REMEDIES if kind in counts}
    return Exposure(int(known["customer_key"].nunique()), assigned, kinds)


def poststratified_mean(values: Array, stratum: Codes, is_member: Mask) -> float:
    """The level of an arm that its strata make: sum of share_s * mean of its members in stratum s.

    values, stratum, is_member (n,): of all customers of all arms. share_s: customers of stratum s
    over all. Not a number where a stratum has no member. It sums over customers, and shares no step
    with the estimator that it checks.
    """
    size = np.bincount(stratum)
    own = stratum[is_member]
    with np.errstate(invalid="ignore", divide="ignore"):
        total = np.bincount(own, weights=values[is_member], minlength=len(size))
        means = total / np.bincount(own, minlength=len(size))
    filled = size > 0
    return float(means[filled] @ size[filled]) / max(len(stratum), 1)


def differs(total: float, sum_of_strata: float, scale: float) -> str | None:
    """What to say where the strata do not make the total, beyond rounding of values of `scale`."""
    if abs(total - sum_of_strata) <= ROUNDING * scale:
        return None
    return (
        f"the effects by stratum add up to {sum_of_strata:+.6g}, and the total says {total:+.6g}: "
        "customers are in no stratum or in two, or weighted by other shares than theirs; "
        "believe neither, and report it as a bug"
    )
