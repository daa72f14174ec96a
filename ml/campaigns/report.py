"""A campaign's reading in words: a page for people, and a line of text per reading.

What belongs here: words and tables from rows of `campaign_results`. What does not: any figure that
is not in them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from ml.campaigns.results import NOTHING_AGAINST
from ml.campaigns.stages import STAGES

DECIDES = "profit_amount"
SHARES = frozenset({"retained"})  # told in points, hundredths
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
    """The newest reading of one campaign, as Markdown, in the order in which it is to be read.

    What is decided, what speaks against the figures, the effects, the money. Tables are padded, so
    that they can be read on a terminal, too.

    results: rows of `results.COLUMNS` of one campaign, of one day or several.
    """
    last = results.sort_values("look_date", kind="stable")
    last = last.drop_duplicates(["arm", "metric"], keep="last")
    place = last["role"].map(ROLES).mask(last["metric"].eq(DECIDES), 1)
    last = last.assign(place=place).sort_values(["arm", "place", "metric"], kind="stable")
    rows: list[dict[str, Any]] = last.to_dict("records")  # type: ignore[assignment]
    if not rows:
        return "Nothing is read yet."
    parts = [_decided(rows), _believe(rows), _found(rows), _money(rows)]
    return "\n\n".join(part for part in parts if part)


def sentence(row: Mapping[str, Any]) -> str:
    """One reading in a line: status, decision, effect, money, and what speaks against it."""
    told = _clauses(row)
    if row["reason"] != NOTHING_AGAINST:
        told.append(row["reason"])
    return f"{_head(row)}: " + "; ".join(told)


def difference(metric: str, value: float | None, kind: str = "+.2f") -> str:
    """A difference of a metric in words, of a share in points; nothing of what is not known."""
    if metric in SHARES and _is_known(value):
        sign = "+" if kind.startswith("+") else ""
        return f"{value * 100:{sign}.2f} points"  # type: ignore[operator]
    return _number(value, kind)


def _head(row: Mapping[str, Any]) -> str:
    return f"{row['arm']} on {row['metric']} ({_words(row['status'])})"


def _clauses(row: Mapping[str, Any]) -> list[str]:
    """What one reading says: the decision where it decides, the effect, and of profit the money."""
    told, metric = [], row["metric"]
    if metric == DECIDES:
        told.append(_words(row["decision"]) or "no decision")
    if _is_known(row["effect"]):
        ends = _ends(row, "effect", "+.2f")
        told.append(f"{difference(metric, row['effect'])} per customer {ends}".rstrip())
    if _is_known(row["cost_effect"]):
        told.append(_in_money(row))
    if metric == DECIDES and _is_known(row["shrunken_effect"]):
        told.append(
            f"{row['shrunken_effect']:+.2f} {_ends(row, 'shrunken', '+.2f')} after shrinkage "
            f"({_words(row['prior_source'])} prior), {row['chance_to_win']:.0%} chance of a gain"
        )
    if _is_known(row["assumed_margin_rate"]) and row["assumed_margin_rate"] > 0:
        told.append(
            f"{row['assumed_margin_rate']:.0%} of the margin is ASSUMED: unit costs are missing"
        )
    if _is_known(row["given_to_would_be_buyers"]) and row["given_to_would_be_buyers"] > 0:
        told.append(
            f"{row['given_to_would_be_buyers']:,.0f} of discounts went to customers who would have "
            "bought anyway"
        )
    return told


def _in_money(row: Mapping[str, Any]) -> str:
    """What came back in all, and what was spent for it."""
    text = "in all"
    if _is_known(row["incremental_total"]):
        text += f" {row['incremental_total']:+,.0f}"
        if _is_known(row["incremental_low"]):
            text += f" [{row['incremental_low']:+,.0f}, {row['incremental_high']:+,.0f}]"
    spent = round(row["cost_effect"] * row["customer_count_arm"])
    text += f" for {spent:,} spent" if spent >= 0 else f" with {-spent:,} less spent"
    if _is_known(row["roi"]):
        text += f", ROI {row['roi']:.1f} [{row['roi_low']:.1f}, {row['roi_high']:.1f}]"
    return text


def _decided(rows: Sequence[Mapping[str, Any]]) -> str:
    """What is decided of each arm, and upon what; the reasons follow."""
    lines = []
    for row in rows:
        if row["metric"] == DECIDES:
            decision, *why = _clauses(row)
            lines.append("; ".join([f"- **{_head(row)}: {decision}**", *why]))
    return "\n".join(lines)


def _believe(rows: Sequence[Mapping[str, Any]]) -> str:
    """What speaks against the figures, the sample ratio, and how effects were estimated."""
    said: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["reason"] != NOTHING_AGAINST:
            key = (row["arm"], _words(row["status"]), row["reason"])
            said.setdefault(key, []).append(row["metric"])
    lines = [
        f"- {arm} on {', '.join(metrics)}: {status}: {reason}"
        for (arm, status, reason), metrics in said.items()
    ]
    guarded = [
        f"{row['arm']} on {row['metric']} {_words(row['guardrail_verdict'])} (harm of "
        f"{difference(row['metric'], row['non_inferiority_margin'], '.4g')} is tolerated)"
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
    methods: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        if isinstance(row["method"], str) and _is_known(row["variance_reduction"]):
            methods.setdefault(row["method"], []).append(row)
    for method, own in methods.items():
        metrics = ", ".join(dict.fromkeys(row["metric"] for row in own))
        lines.append(f"- {metrics}: by {method}{_off([row['variance_reduction'] for row in own])}")
    return "\n".join(lines)


def _off(reductions: Sequence[float]) -> str:
    """What a method took off the variance, or added to it: a covariate may turn out useless."""
    low, high = min(reductions), max(reductions)
    if low == high == 0:
        return ""
    if low < 0 < high:
        return f", which took up to {high:.1%} off the variance, or added up to {-low:.1%} to it"
    ends = " to ".join(dict.fromkeys(f"{one:.1%}" for one in sorted((abs(low), abs(high)))))
    return (
        f", which took {ends} off the variance"
        if low >= 0
        else f", which added {ends} to the variance"
    )


def _found(rows: Sequence[Mapping[str, Any]]) -> str:
    """The effect of each arm on each metric."""
    head = ["arm", "metric", "role", "customers", "of the arm", "of the control"]
    head += ["effect", "interval", "p", "p adjusted", "lift", "status"]
    return _table(
        head,
        [
            [
                row["arm"],
                row["metric"],
                _role(row),
                f"{row['customer_count_arm']:,} / {row['customer_count_control']:,}",
                _level(row["metric"], row["mean_arm"]),
                _level(row["metric"], row["mean_control"]),
                difference(row["metric"], row["effect"], "+.4g"),
                _ends(row, "effect", "+.4g"),
                _number(row["p_value"]),
                _number(row["p_value_adjusted"]),
                _interval(row["relative_low"], row["relative_high"], "+.1%"),
                _words(row["status"]),
            ]
            for row in rows
        ],
    )


def _role(row: Mapping[str, Any]) -> str:
    if row["metric"] != DECIDES:
        return str(row["role"])
    return "goal, decides" if row["role"] == "goal" else "decides"


def _money(rows: Sequence[Mapping[str, Any]]) -> str:
    """What each arm brought in all, and what it cost."""
    lines = []
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
    return _table(["arm", "incremental, in all", "total", "interval"], lines) if lines else ""


def _in_all(row: Mapping[str, Any], name: str, count: int = 1) -> tuple[str, str]:
    """A total and its interval."""
    low, high = (row[f"{name.removesuffix('_total')}_{end}"] for end in ("low", "high"))
    total = f"{row[name] * count:,.0f}"
    if not (_is_known(low) and _is_known(high)):
        return total, ""
    return total, f"[{low * count:,.0f}, {high * count:,.0f}]"


def _table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, cells)) for cells in zip(head, *lines, strict=True)]
    rows = [head, ["-" * width for width in widths], *lines]
    return "\n".join("| " + " | ".join(map(str.ljust, cells, widths)) + " |" for cells in rows)


def _words(value: Any) -> str:
    return value.replace("_", " ") if isinstance(value, str) else ""


def _is_known(value: Any) -> bool:
    return value is not None and not pd.isna(value)


def _number(value: Any, kind: str = ".4g") -> str:
    return f"{value:{kind}}" if _is_known(value) else ""


def _level(metric: str, value: Any) -> str:
    """A mean of a metric; of a share in percent."""
    return _number(value, ".2%" if metric in SHARES else ".4g")


def _ends(row: Mapping[str, Any], name: str, kind: str) -> str:
    """The interval of a difference; of a share in points."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    if row["metric"] in SHARES and _is_known(low) and _is_known(high):
        return _interval(low * 100, high * 100, "+.2f")
    return _interval(low, high, kind)


def _interval(low: Any, high: Any, kind: str = "+.4g") -> str:
    return f"[{low:{kind}}, {high:{kind}}]" if _is_known(low) and _is_known(high) else ""
