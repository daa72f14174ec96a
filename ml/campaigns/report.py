"""A campaign's reading as a page for people: what was found, what it earned, why to believe it.

What belongs here: words and tables from rows of `campaign_results`. What does not: any figure that
is not in them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from ml.campaigns.stages import STAGES

# What an arm brought in all, in the order of a profit account.
TOTALS = {
    "order_count": "orders",
    "revenue_amount": "revenue",
    "margin_amount": "margin",
    "net_margin_amount": "margin net of returns",
    "profit_amount": "profit",
}


def markdown(results: pd.DataFrame) -> str:
    """The newest reading of one campaign, as Markdown.

    results: rows of `results.COLUMNS` of one campaign, of one day or several.
    """
    last = results.sort_values("look_date", kind="stable")
    last = last.drop_duplicates(["arm", "metric"], keep="last")
    rows: list[dict[str, Any]] = last.sort_index(kind="stable").to_dict("records")  # type: ignore[assignment]
    if not rows:
        return "Nothing is read yet."
    parts = [_found(rows), _money(rows), _believe(rows)]
    return "\n\n".join(part for part in parts if part)


def _found(rows: Sequence[dict[str, Any]]) -> str:
    """The effect of each arm on each metric."""
    head = ["arm", "metric", "role", "customers", "of the arm", "of the control"]
    head += ["effect", "interval", "p", "p adjusted", "lift", "status"]
    return _table(
        head,
        [
            [
                row["arm"],
                row["metric"],
                row["role"],
                f"{row['customer_count_arm']:,} / {row['customer_count_control']:,}",
                _number(row["mean_arm"]),
                _number(row["mean_control"]),
                _number(row["effect"], sign=True),
                _interval(row["effect_low"], row["effect_high"]),
                _number(row["p_value"]),
                _number(row["p_value_adjusted"]),
                _interval(row["relative_low"], row["relative_high"], percent=True),
                row["status"].replace("_", " "),
            ]
            for row in rows
        ],
    )


def _money(rows: Sequence[dict[str, Any]]) -> str:
    """What each arm brought in all, what it cost, and what is decided."""
    lines = []
    for row in rows:
        if row["metric"] in TOTALS and _is_known(row["incremental_total"]):
            low, high = row["incremental_low"], row["incremental_high"]
            total = _amount(row["incremental_total"])
            lines.append([row["arm"], TOTALS[row["metric"]], total, _amounts(low, high)])
        if _is_known(row["cost_effect"]):
            n = row["customer_count_arm"]
            low, high = (_times(row[f"cost_effect_{end}"], n) for end in ("low", "high"))
            lines.append([row["arm"], "cost", _amount(row["cost_effect"] * n), _amounts(low, high)])
            for name, what in (("roi", "ROI"), ("shrunken_roi", "ROI after shrinkage")):
                ends = _interval(row[f"{name}_low"], row[f"{name}_high"])
                if _is_known(row[name]):
                    lines.append([row["arm"], what, _number(row[name]), ends])
    decided = [_decided(row) for row in rows if _is_known(row["cost_effect"])]
    table = _table(["arm", "incremental, in all", "total", "interval"], lines) if lines else ""
    return "\n\n".join(part for part in (table, "\n".join(decided)) if part)


def _decided(row: dict[str, Any]) -> str:
    text = f"- **{row['arm']}: "
    decision = row["decision"]
    text += f"{decision.replace('_', ' ')}**" if isinstance(decision, str) else "no decision**"
    if _is_known(row["shrunken_effect"]):
        text += (
            f": {_number(row['shrunken_effect'], sign=True)} "
            f"{_interval(row['shrunken_low'], row['shrunken_high'])} of profit per customer after "
            f"shrinkage ({(row['prior_source'] or '').replace('_', ' ')} prior), "
            f"{row['chance_to_win']:.0%} chance of a gain"
        )
    if _is_known(row["given_to_would_be_buyers"]) and row["given_to_would_be_buyers"] > 0:
        given = _amount(row["given_to_would_be_buyers"])
        text += f"; {given} of discounts went to customers who would have bought anyway"
    if _is_known(row["assumed_margin_rate"]) and row["assumed_margin_rate"] > 0:
        text += (
            f"; {row['assumed_margin_rate']:.0%} of the margin is ASSUMED: unit costs are missing"
        )
    return text


def _believe(rows: Sequence[dict[str, Any]]) -> str:
    """What speaks against the figures, the sample ratio, and how effects were estimated."""
    lines = [
        f"- {row['arm']} on {row['metric']}: {row['status'].replace('_', ' ')}: {row['reason']}"
        for row in rows
        if row["status"] != "ok" or row["guardrail_verdict"] in ("inferior", "inconclusive")
    ]
    guarded = [
        f"{row['arm']} on {row['metric']} {row['guardrail_verdict'].replace('_', ' ')} (harm of "
        f"{_number(row['non_inferiority_margin'])} is tolerated)"
        for row in rows
        if isinstance(row["guardrail_verdict"], str)
    ]
    if guarded:
        lines.append("- guardrails: " + "; ".join(guarded))
    worst = {
        stage: min(known)
        for stage in STAGES
        if (known := [row[f"srm_p_{stage}"] for row in rows if _is_known(row[f"srm_p_{stage}"])])
    }
    if worst:
        told = ", ".join(f"{stage} p = {_number(p)}" for stage, p in worst.items())
        lines.append(f"- sample ratio (below 0.001 nothing is shown): {told}")
    methods = dict.fromkeys(
        f"{row['metric']} {row['method']}"
        + (f" (-{share:.1%} of variance)" if (share := row["variance_reduction"]) > 0 else "")
        for row in rows
        if isinstance(row["method"], str) and _is_known(row["variance_reduction"])
    )
    if methods:
        lines.append("- estimated by: " + "; ".join(methods))
    return "\n".join(lines)


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def _is_known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def _number(value: Any, *, sign: bool = False) -> str:
    if not _is_known(value):
        return ""
    return f"{value:{'+' if sign else ''}.4g}"


def _interval(low: Any, high: Any, *, percent: bool = False) -> str:
    if not (_is_known(low) and _is_known(high)):
        return ""
    kind = "+.1%" if percent else "+.4g"
    return f"[{low:{kind}}, {high:{kind}}]"


def _amount(value: Any) -> str:
    return f"{value:,.0f}" if _is_known(value) else ""


def _amounts(low: Any, high: Any) -> str:
    return f"[{_amount(low)}, {_amount(high)}]" if _is_known(low) and _is_known(high) else ""


def _times(value: Any, count: int) -> float:
    return value * count if _is_known(value) else math.nan
