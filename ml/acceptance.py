"""What share of those who would leave a contact keeps: as published, and as campaigns measured it.

Belongs here: the estimate from the published results of campaigns, and what is believed before.
Does not belong here: results themselves (ml.campaigns.results), what the share is used for
(ml.metrics.ProfitModel).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from ml.campaigns.holdout import QUARTER
from ml.experiments.shrinkage import NormalPrior, posterior
from ml.slices import SMALLEST_SLICE

METRIC = "retained"
# Readings that count: to leave out the underpowered would keep those that were lucky.
BELIEVED = ("ok", "underpowered")
#: Beta(6, 14), which Verbraken, Verbeke & Baesens (2013) publish for telecoms, by its moments. So a
#: measured share weighs as much as the published one where its standard error is .1.
PUBLISHED = NormalPrior(0.3, 0.1)


@dataclass(frozen=True)
class Acceptance:
    """The share kept of those who would have left, with its 95 % interval, and what measured it.

    rate, low, high: of the posterior, within 0 and 1. measured, standard_error: by the campaigns
    alone; a contact that drives customers away measures less than 0.
    """

    rate: float
    low: float
    high: float
    measured: float
    standard_error: float
    customer_count: int  # assigned to an arm, with a closed window
    campaigns: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{', '.join(self.campaigns)} measured {self.measured:.3f} +- "
            f"{self.standard_error:.3f} on {self.customer_count:,} customers; with "
            f"{PUBLISHED.mean:.1f} +- {PUBLISHED.sd:.1f} as published for telecoms "
            f"{self.rate:.3f} [{self.low:.3f}, {self.high:.3f}]"
        )


def measured_acceptance(results: pd.DataFrame) -> Acceptance | None:
    """Return the share kept by all arms of all finished campaigns, or None where too few tell.

        measured = sum n (p_arm - p_control) / sum n (1 - p_control)

    with n the customers of an arm and p the share who bought within the campaign's window, which is
    to be no shorter than the horizon: of those who would not have bought, how many did because of
    it. By everybody who was drawn for the arm, reached or not, which is what a contact that is
    planned is worth. The mean over arms and not the best of them, since the best of a few is lucky.
    Campaigns are independent; arms of one share their control and are taken to err together, which
    widens the interval.

    The rate is the posterior mean under the prior `PUBLISHED`, both weighed by their precision:
    a few hundred customers move what was believed before, some thousands replace it.

    results: rows of `campaign_results` up to a day: snapshot_date, campaign_id, arm, metric, look,
    is_final, status, effect, standard_error, mean_control, customer_count_arm. Of an arm the last
    reading counts, if its status is in `BELIEVED`: one that needs a review tells nothing. The
    global holdout of a quarter, which is not about one contact, does not count. All arms together
    must have `SMALLEST_SLICE` customers.
    """
    finished = results["is_final"].astype(bool) & results["metric"].eq(METRIC)
    own = ~results["campaign_id"].str.startswith(QUARTER)
    last = (
        results[finished & own]
        .sort_values(["snapshot_date", "campaign_id", "arm", "look"], kind="stable")
        .drop_duplicates(["campaign_id", "arm"], keep="last")
    )
    known = last[["effect", "standard_error", "mean_control"]].notna().all(axis=1)
    last = last[known & last["status"].isin(BELIEVED)]
    count = last["customer_count_arm"].to_numpy(dtype="float64")
    leaving = float((count * (1 - last["mean_control"].to_numpy(dtype="float64"))).sum())
    errors = pd.Series(count * last["standard_error"].to_numpy(dtype="float64"))
    error = float(np.sqrt((errors.groupby(last["campaign_id"].to_numpy()).sum() ** 2).sum()))
    if count.sum() < SMALLEST_SLICE or leaving <= 0 or error <= 0:
        return None
    measured = float((count * last["effect"].to_numpy(dtype="float64")).sum()) / leaving
    found = posterior(measured, error / leaving, PUBLISHED)
    low, rate, high = np.clip([found.low, found.mean, found.high], 0, 1)
    return Acceptance(
        float(rate),
        float(low),
        float(high),
        measured,
        error / leaving,
        int(count.sum()),
        tuple(sorted(set(last["campaign_id"]))),
    )
