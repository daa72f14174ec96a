"""The model card: what one registered version is, for whoever must decide whether to trust it.

Belongs here: the text, after Mitchell et al., Model Cards for Model Reporting, 2019; and of the
same tables what the page of a run in MLflow opens with (`run_note`, `made_by_lines`). Does not
belong here: where it is kept (ml.registry), the numbers (ml.training, ml.value_training).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from ml.metrics import CONFUSION
from ml.slices import SMALLEST_SHOWN, SMALLEST_SLICE

if TYPE_CHECKING:
    from ml.training import TrainingResult
    from ml.value_training import ValueResult

_METRICS = {
    "log_loss": "log loss",
    "roc_auc_mean": "ROC AUC, mean over test snapshots",
    "average_precision_mean": "average precision, mean over test snapshots",
    "brier": "Brier score",
}
# what the candidates are compared by, beside log loss
_COMPARED = {
    "roc_auc_mean": "ROC AUC",
    "average_precision_mean": "avg precision",
    "top_decile_lift": "top-decile lift",
    "brier": "Brier",
    "calibration_absolute_bias_mean": "bias",
    "ece": "ECE",
    "accuracy_at_capacity": "accuracy",
    "precision_at_capacity": "precision",
    "recall_at_capacity": "recall",
    "f1_at_capacity": "F1",
}
_POINTS = {
    "brier_skill": "Brier skill",
    "top_decile_lift": "top-decile lift",
    "top_decile_lift_normalised": "normalised (1: perfect)",
    "calibration_slope": "calibration slope",
    "calibration_absolute_bias_mean": "mean absolute calibration bias",
    "calibration_absolute_bias_worst": "worst calibration bias",
}


def model_card(result: TrainingResult, name: str, version: int, sha256: str) -> str:
    """Return the card of a version in Markdown; it holds no customer."""
    chosen = result.candidate(result.chosen)
    lines = [
        f"# {name}, version {version}: {result.chosen}",
        "",
        f"- **Decision**: {result.decision.reason}",
        f"- **Data**: snapshots from {result.first_snapshot}, labels up to "
        f"{result.last_matured_date}; {result.training_row_count:,} rows; data set "
        f"{result.data_digest[:12]}",
        "- **Population**: customers with a valid order within the shop's active window before the "
        "snapshot; dormant customers and prospects have no score",
        f"- **Predicts**: the probability of no valid order within {result.horizon_days} days, "
        "under business as usual",
        "- **Tested** on snapshots of "
        + ", ".join(str(split.test) for split in result.origins)
        + ", each by a fit on what was known on that day",
        f"- **Season**: {result.season}",
        f"- **File**: SHA-256 {sha256}",
        "",
        "## Intended use and limits",
        "",
        "- Ranks customers for retention and estimates margin at risk. It is no ground for prices, "
        "credit or refusals.",
        "- A probability says who leaves, not whom a contact would keep: that is what a randomised "
        "campaign measures.",
        "- It holds for the shop and the population that it was trained on; a change of "
        "assortment, prices or data is not in it.",
        f"- Features: {len(result.features)}. {result.fairness_note}",
        "- Of customers labelled churned 30 to 45 % buy again within 180 further days (Online "
        "Retail II): churned is not lost.",
        "",
        "## Metrics, out of time",
        "",
        "| metric | value | 95 % interval, over customers |",
        "| --- | ---: | --- |",
    ]
    for metric, label in _METRICS.items():
        found = chosen.intervals[metric]
        lines.append(f"| {label} | {found.estimate:.4f} | {found.low:.4f} to {found.high:.4f} |")
    for metric, label in _POINTS.items():
        lines.append(f"| {label} | {chosen.metrics[metric]:.3f} | |")
    lines += [
        "",
        "## Calibration by test snapshot",
        "",
        "| snapshot | customers | churn rate | mean probability | slope |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for day, values in chosen.metrics_by_origin.items():
        lines.append(
            f"| {day} | {values['row_count']:,.0f} | {values['churn_rate']:.3f} | "
            f"{values['mean_probability']:.3f} | {values['calibration_slope']:.2f} |"
        )
    lines += ["", "## At the thresholds", "", *threshold_lines(result)]
    lines += ["", "## Candidates", "", *candidate_lines(result)]
    lines += [
        "",
        "## Slices",
        "",
        f"Slices of fewer than {SMALLEST_SLICE} customers are shown and decide nothing.",
        "",
        "| slice | value | customers | churn rate | bias | log loss | ROC AUC |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in chosen.slices.to_dict("records"):
        small = "" if row["is_gated"] else " (few)"
        lines.append(
            f"| {row['slice']} | {row['value']}{small} | {row['customer_count']:,} | "
            f"{row['churn_rate']:.3f} | {row['calibration_bias']:+.3f} | {row['log_loss']:.4f} | "
            f"{row['roc_auc']:.3f} |"
        )
    lines += ["", "## Fairness", "", *fairness_lines(result)]
    return "\n".join(lines) + "\n"


def value_card(result: ValueResult, name: str, version: int, sha256: str) -> str:
    """Return the card of a version of purchases and value in Markdown; it holds no customer."""
    bought = ", ".join(f"{days} days by {of}" for days, of in result.purchase_recipes.items())
    lines = [
        f"# {name}, version {version}: {result.recipe}",
        "",
        f"- **Decision**: {result.reason}",
        f"- **Data**: `customer_status` up to {result.last_matured_date}; "
        f"{result.training_row_count:,} rows; data set {result.data_digest[:12]}",
        "- **Population**: every customer known, dormant customers included; prospects have "
        "purchase probabilities and no value",
        f"- **Predicts**: purchases within {bought or '7 and 30 days by MBG/NBD itself'}; orders, "
        f"revenue and margin within 30, 90 and 365 days by {result.recipe}, with 80 % intervals",
        *(
            f"- **Tested**, {measured}: {', '.join(map(str, days))}"
            for measured, days in result.origins.items()
        ),
        f"- **File**: SHA-256 {sha256}",
        "",
        "## 80 % intervals",
        "",
    ]
    if result.coverages.empty:
        lines.append("No two test days lie a window apart, so it is not known what they cover.")
    else:
        lines += [
            "Share of customers inside theirs, at later days than taught it, with its 95 % "
            "interval. Beside all customers stand those whose interval is not [0, 0] (open): of a "
            "group more than four fifths of whom bring nothing, no interval covers only 80 %. "
            "Tiers are thirds of the revenue of the year before.",
            "",
            "| window | measure | value tier | rows | covered | open | covered of the open |",
            "| ---: | --- | --- | ---: | --- | ---: | --- |",
        ]
    for row in result.coverages.to_dict("records"):
        cells = [
            f"{row['window_days']} days",
            row["measure"],
            row["tier"],
            f"{row['row_count']:,}",
            _share(row, "coverage"),
            f"{row['attainable_share']:.1%}",
            _share(row, "coverage_attainable"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "## Metrics, out of time", "", *measure_lines(result, result.intervals)]
    lines += ["", "## Intended use and limits", ""]
    year = result.intervals.get("value_365d_bias")
    lines += [
        "- Sums are what to plan with: one customer's interval is wide, a thousand customers' sum "
        "is not.",
        "- A year is what MBG/NBD says and no outcome taught. "
        + (
            "No year has passed after a test day, so it is marked as extrapolated."
            if year is None
            else f"At the days that a year has passed after it was {year.estimate:+.0%} "
            f"[{year.low:+.0%}, {year.high:+.0%}] off in all."
        ),
        "- The level of a shop is its season's, of which less than two years teach no law: a sum "
        "may be off by what the bias above says of the time of the year.",
        "- It is no ground for prices, credit or refusals.",
    ]
    return "\n".join(lines) + "\n"


def _share(row: Mapping[Any, Any], name: str) -> str:
    if np.isnan(row[name]):
        return ""
    return f"{row[name]:.3f} [{row[f'{name}_low']:.3f}, {row[f'{name}_high']:.3f}]"


def measure_lines(result: ValueResult, names: Iterable[str] | None = None) -> list[str]:
    """Return what a training of value measured as a Markdown table, intervals where there are.

    names: of `metrics` or `intervals`; default all.
    """
    lines = ["| measure | value | 95 % interval |", "| --- | ---: | --- |"]
    for name in sorted({*result.metrics, *result.intervals} if names is None else names):
        found = result.intervals.get(name)
        value = found.estimate if found else result.metrics[name]
        between = f"{found.low:.4f} to {found.high:.4f}" if found else ""
        lines.append(f"| {name} | {value:.4f} | {between} |")
    return lines


def run_note(result: TrainingResult, made_by: str | None = None) -> str:
    """Return in Markdown what the page of a training's run opens with: which is better, and why.

    made_by: the address of what ran the training.
    """
    strongest = result.importances.head(5)
    rises = [
        f"{name} {rise:+.4f}"
        for name, rise in zip(strongest["feature"], strongest["importance"], strict=True)
    ]
    others = [
        f"{name} {result.against_chosen[name]}" for name in result.ranking if name != result.chosen
    ]
    return "\n".join(
        [
            # MLflow folds all but the first lines away, so these answer the question
            f"**{result.decision.reason.rstrip('.')}.** Log loss {result.chosen} "
            f"{result.candidate(result.chosen).metrics['log_loss']:.4f}; others minus it: "
            f"{'; '.join(others[:2])}. It goes by (rise in log loss when shuffled) "
            f"{', '.join(rises)}.",
            "",
            *candidate_lines(result),
            "",
            f"{result.season}.",
            *made_by_lines(made_by),
        ]
    )


def made_by_lines(address: str | None) -> list[str]:
    """Return the link to what made a run of MLflow, as lines of Markdown; none without one."""
    return [] if address is None else ["", f"[The run that made it]({address})."]


def threshold_lines(result: TrainingResult) -> list[str]:
    """Return what the chosen predicts at each threshold and would earn, as Markdown."""
    chosen, profit = result.candidate(result.chosen), result.settings.profit
    lines = [
        f"Chosen on what was known at each test snapshot: by capacity, the riskiest "
        f"{result.settings.capacity_share:.0%}; by profit; by ROC, the highest recall less "
        "false-positive rate. Rows of all test snapshots.",
        "",
        "| threshold | caught (TP) | contacted in vain (FP) | missed (FN) | left alone (TN) | "
        "accuracy | precision | recall | F1 |",
        "| --- |" + " ---: |" * 8,
    ]
    for row in chosen.at_thresholds.to_dict("records"):
        counts = (f"{row[sign]:,}" for sign in CONFUSION)
        rates = (f"{row[rate]:.3f}" for rate in ("accuracy", "precision", "recall", "f1"))
        lines.append(f"| {' | '.join([row['purpose'], *counts, *rates])} |")
    lines += [
        "",
        f"Contacting whom it pays by each one's own expected margin would earn "
        f"{chosen.metrics['profit_by_value']:,.2f} per customer of the population, contacting "
        f"everybody {chosen.metrics['profit_of_all']:,.2f}; it pays for "
        f"{chosen.metrics['share_contacted']:.1%}. A contact costs {profit.contact_amount:,.2f}, "
        f"an incentive {profit.incentive_amount:,.2f}; of those who would leave it keeps "
        f"{profit.accept_rate:.1%} ({profit.acceptance}). The threshold by profit takes every "
        f"customer who is kept for {profit.customer_value:,.2f}, the mean expected margin of "
        f"{result.horizon_days} days at the last snapshot.",
    ]
    return lines


def candidate_lines(result: TrainingResult) -> list[str]:
    """Return the candidates beside each other as a Markdown table, the lowest log loss first."""
    lines = [
        "Log loss decides; an interval that holds zero says that the difference to the chosen may "
        "be chance. All on the same later customers; bias is the mean of |bias| over snapshots, "
        "accuracy to F1 are at the threshold by capacity.",
        "",
        "| candidate | log loss | minus the chosen | "
        + " | ".join(_COMPARED.values())
        + " | fit s | gates |",
        "| --- | ---: | --- |" + " ---: |" * (len(_COMPARED) + 1) + " --- |",
    ]
    for name in result.ranking:
        found = result.candidate(name)
        failed = [gate.name for gate in found.gates if not gate.passed]
        cells = [
            f"**{name}**" if name == result.chosen else name,
            f"{found.metrics['log_loss']:.4f}",
            "" if name == result.chosen else str(result.against_chosen[name]),
            *(f"{found.metrics[metric]:.4f}" for metric in _COMPARED),
            f"{found.fit_seconds:.1f}",
            "passed" if not failed else "failed: " + ", ".join(failed),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def fairness_lines(result: TrainingResult) -> list[str]:
    """Return how the chosen scores by gender, age band and country, as Markdown; no customer."""
    lines = [
        f"{result.fairness_note} Test snapshots together, each person as known on its day. Groups "
        f'of fewer than {SMALLEST_SHOWN} customers are one, "other"; those of fewer than '
        f"{SMALLEST_SLICE} are marked. May be contacted: consents to any channel on the day of the "
        "training; eligible: of no default rule of campaigns either (complaint, recent order, "
        "contact cap, ...). Nothing here decides a promotion; country does as a slice.",
    ]
    if result.fairness.empty:
        return lines
    names = "attribute | value | customers | churn rate | mean probability | bias | p >= 2/3"
    lines += ["", f"| {names} | ROC AUC | may be contacted | eligible |"]
    lines.append("| --- | --- |" + " ---: |" * 8)
    for row in result.fairness.to_dict("records"):
        marked = row["value"] if row["is_gated"] else f"{row['value']} (few)"
        shares = (row["reachable_share"], row["eligible_share"])
        cells = [
            row["slice"],
            marked,
            f"{row['customer_count']:,}",
            f"{row['churn_rate']:.3f}",
            f"{row['mean_probability']:.3f}",
            f"{row['calibration_bias']:+.3f}",
            f"{row['high_risk_share']:.1%}",
            f"{row['roc_auc']:.3f}",
            *("unknown" if np.isnan(share) else f"{share:.1%}" for share in shares),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines
