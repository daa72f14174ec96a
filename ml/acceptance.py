"""What share of those who would leave a contact keeps, as the shop's own campaigns measured it.

Belongs here: the estimate from the published results of campaigns. Does not belong here: results
themselves (ml.campaigns.results), what the share is used for (ml.metrics.ProfitModel).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml.campaigns.holdout import QUARTER
from ml.slices import SMALLEST_SLICE

METRIC = "retained"


@dataclass(frozen=True)
class Acceptance:
    """The share kept of those who would have left, with its 95 % interval, and what measured it."""

    rate: float
    low: float
    high: float
    customer_count: int  # assigned to an arm, with a closed window
    campaigns: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"measured by {', '.join(self.campaigns)} on {self.customer_count:,} customers: "
            f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]"
        )


def measured_acceptance(results: pd.DataFrame) -> Acceptance | None:
    """Return the share kept over all arms of all finished campaigns, or None where too few tell.

        rate = sum n (p_arm - p_control) / sum n (1 - p_control)

    with n the customers of an arm and p the share who bought within the campaign's window: of those
    who would not have bought, how many did because of it. By everybody who was drawn for the arm,
    reached or not, which is what a contact that is planned is worth. The mean over arms and not the
    best of them, since the best of a few is lucky. Campaigns are independent; arms of one share
    their control and are taken to err together, which widens the interval. The rate lies within 0
    and 1.

    results: rows of `campaign_results` up to a day: snapshot_date, campaign_id, arm, metric,
    is_final, effect, standard_error, mean_control, customer_count_arm. Of an arm the last reading
    counts; the global holdout of a quarter, which is not about one contact, does not. Arms of fewer
    than `SMALLEST_SLICE` customers together tell nothing.
    """
    finished = results["is_final"].astype(bool) & results["metric"].eq(METRIC)
    own = ~results["campaign_id"].str.startswith(QUARTER)
    known = results[["effect", "standard_error", "mean_control"]].notna().all(axis=1)
    last = (
        results[finished & own & known]
        .sort_values(["snapshot_date", "campaign_id", "arm", "look"], kind="stable")
        .drop_duplicates(["campaign_id", "arm"], keep="last")
    )
    count = last["customer_count_arm"].to_numpy(dtype="float64")
    leaving = float((count * (1 - last["mean_control"].to_numpy(dtype="float64"))).sum())
    if count.sum() < SMALLEST_SLICE or leaving <= 0:
        return None
    rate = float((count * last["effect"].to_numpy(dtype="float64")).sum()) / leaving
    errors = pd.Series(count * last["standard_error"].to_numpy(dtype="float64"))
    error = float(np.sqrt((errors.groupby(last["campaign_id"].to_numpy()).sum() ** 2).sum()))
    low, rate, high = np.clip(
        [rate - 1.96 * error / leaving, rate, rate + 1.96 * error / leaving], 0, 1
    )
    return Acceptance(
        float(rate),
        float(low),
        float(high),
        int(count.sum()),
        tuple(sorted(set(last["campaign_id"]))),
    )
