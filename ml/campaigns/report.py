"""A campaign's reading as a page for people: what was found, what it earned, why to believe it.

What belongs here: words and tables from rows of `campaign_results`. What does not: any figure that
is not in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from ml.campaigns.results import NOTHING_AGAINST
from ml.campaigns.stages import STAGES

DECIDES = "profit_amount"
# What was asked comes first, then what decides, what must not suffer, and the rest.
ROLES = {"goal": 0, "guardrail": 2, "secondary": 3}
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
    place = last["role"].map(ROLES).mask(last["metric"].eq(DECIDES), 1)
    last = last.assign(place=place).sort_values(["arm", "place", "metric"], kind="stable")
    rows: list[dict[str, Any]] = last.to_dict("records")  # type: ignore[assignment]
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
    lines, decided = [], []
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = {row["metric"]: row for row in rows if row["arm"] == arm}
        for metric, name in TOTALS.items():
            if metric in own and _is_known(own[metric]["incremental_total"]):
                lines.append([arm, name, *_in_all(own[metric], "incremental_total")])
        profit = own.get(DECIDES)
        if profit is None or not _is_known(profit["cost_effect"]):
            continue
        n = profit["customer_count_arm"]
        lines.append([arm, "cost", *_in_all(profit, "cost_effect", n)])
        for name, what in (("roi", "ROI"), ("shrunken_roi", "ROI after shrinkage")):
            if _is_known(profit[name]):
                ends = _interval(profit[f"{name}_low"], profit[f"{name}_high"])
                lines.append([arm, what, _number(profit[name]), ends])
        decided.append(_decided(profit))
    table = _table(["arm", "incremental, in all", "total", "interval"], lines) if lines else ""
    return "\n\n".join(part for part in (table, "\n".join(decided)) if part)


def _in_all(row: dict[str, Any], name: str, count: int = 1) -> tuple[str, str]:
    """A total and its interval."""
    low, high = (row[f"{name.removesuffix('_total')}_{end}"] for end in ("low", "high"))
    total = f"{row[name] * count:,.0f}"
    if not (_is_known(low) and _is_known(high)):
        return total, ""
    return total, f"[{low * count:,.0f}, {high * count:,.0f}]"


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
        given = f"{row['given_to_would_be_buyers']:,.0f}"
        text += f"; {given} of discounts went to customers who would have bought anyway"
    if _is_known(row["assumed_margin_rate"]) and row["assumed_margin_rate"] > 0:
        text += (
            f"; {row['assumed_margin_rate']:.0%} of the margin is ASSUMED: unit costs are missing"
        )
    return text


def _believe(rows: Sequence[dict[str, Any]]) -> str:
    """What speaks against the figures, the sample ratio, and how effects were estimated."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["reason"] != NOTHING_AGAINST:
            key = (row["arm"], row["status"].replace("_", " "), row["reason"])
            said.setdefault(key, []).append(row["metric"])
    lines = [
        f"- {arm} on {', '.join(metrics)}: {status}: {reason}"
        for (arm, status, reason), metrics in said.items()
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
    methods: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if isinstance(row["method"], str) and _is_known(row["variance_reduction"]):
            methods.setdefault(row["method"], []).append(row)
    for method, own in methods.items():
        metrics = ", ".join(dict.fromkeys(row["metric"] for row in own))
        taken = sorted(row["variance_reduction"] for row in own)
        off = f", which took {taken[0]:.1%} to {taken[-1]:.1%} off the variance"
        lines.append(f"- {metrics}: by {method}" + (off if any(taken) else ""))
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
