"""The two documents that are made from code: `python -m docs.generate` writes them.

What belongs here: the source contract for people, made from contract.yaml, and the feature
catalogue, made from dbt's descriptions and the reasons below. What does not: any other document;
those are written by hand. A test compares the committed files with what this module makes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from orchestration.defs.sources.contract import Contract, SourceColumn, SourceTable

ROOT = Path(__file__).resolve().parents[1]
MARTS = ROOT / "dbt_project" / "models" / "marts" / "_marts.yml"

# Family -> measure -> why a model should know it. A measure is a feature's name without its window.
REASONS: Mapping[str, Mapping[str, str]] = {
    "Recency and tenure": {
        "days_since_last_order": "Silence is the first sign of leaving, and the rule to beat.",
        "days_since_first_order": "New customers leave more often than old ones.",
        "is_tenure_censored": "Tells a long tenure from one that the history cuts off.",
        "days_since_created": "An old account with a young first order differs from a new one.",
    },
    "Frequency": {
        "order_count": "How often somebody buys; windows of several lengths show a change of pace.",
        "order_day_count": "Several orders on one day are one visit.",
    },
    "Money and price level": {
        "revenue_amount": "Who spends more has more reason to stay.",
        "margin_amount": "What the revenue leaves; it differs from it where costs are known.",
        "average_order_amount": "Size of a usual order.",
        "max_order_amount": "One large order can hide a small usual one.",
        "average_unit_price_amount": "Whether dear or cheap products are bought.",
    },
    "Rhythm": {
        "gap_mean": "The customer's usual time between purchases.",
        "gap_median": "The same, without the pull of one long pause.",
        "gap_stddev": "How regular the customer is.",
        "gap_p90": "A pause that is long for this customer.",
        "silence_ratio": "Thirty days of silence mean little to who buys yearly and much to who "
        "buys weekly.",
        "silence_p90_ratio": "Silence against the longest usual pause, not against the mean one.",
        "alive_probability": "Number, rhythm and silence of the purchases together: the more often "
        "somebody bought, the sooner silence means leaving.",
        "purchase_probability": "Who is not lost may still not be due; this asks for both.",
        "order_count_change": "Buying less than before comes before not buying.",
        "revenue_amount_change": "Spending less than before comes before not spending.",
        "average_order_amount_change": "Who tries another shop first moves the large orders there.",
    },
    "Returns, cancellations, discounts and coupons": {
        "return_count": "Returns are disappointments, or the habit of a heavy buyer.",
        "return_amount": "How much was disappointing.",
        "return_rate": "Tells the two readings of the count apart.",
        "days_since_last_return": "A disappointment wears off, or is still fresh.",
        "cancelled_order_count": "Orders that went wrong, or a change of mind.",
        "cancelled_amount": "How much that was.",
        "discount_amount": "Who buys for the price leaves for the price.",
        "discount_rate": "The depth of the discounts, whatever is spent.",
        "discounted_order_rate": "Who never buys without one; the at-risk list reads it as well.",
        "coupon_redeemed_count": "Who answers to coupons.",
        "open_coupon_count": "A reason to come back that is still open.",
    },
    "Breadth": {
        "product_count": "Who buys many things has more reasons to return.",
        "category_count": "The same, across the shop.",
        "item_count": "Units; a gift or a stock purchase shows here.",
        "main_category_share": "Who buys one thing only leaves when it is no longer needed.",
        "category_entropy": "The same over all categories, not by the largest alone.",
    },
    "The same weeks a year ago": {
        "order_count_same_weeks_last_year": "A seasonal customer is silent for most of the year.",
        "revenue_amount_same_weeks_last_year": "How much the season is worth.",
        "same_weeks_order_share": "Whether the year's orders lie in the weeks to come, however "
        "many they are.",
        "has_last_year": "Without a year of history, zero orders a year ago mean nothing.",
    },
    "Deliveries": {
        "late_delivery_count": "Late parcels cost customers.",
        "delivery_days_mean": "Slow is a milder form of late.",
        "undelivered_order_count": "An order that never came is the worst of them.",
    },
    "Events": {
        "event_count": "Browsing thins before buying does.",
        "event_day_count": "One long visit is not many visits.",
        "view_count": "Interest in products.",
        "cart_count": "Interest close to buying.",
        "session_count": "Visits.",
        "days_since_last_event": "Who still looks has not left.",
        "days_since_last_cart": "Who lately meant to buy may still.",
        "event_count_change": "Browsing less than the month before.",
        "event_decay_ratio": "The same within the month, whatever is browsed: below 1 it ebbs.",
    },
    "Service and reviews": {
        "ticket_count": "Something needed help.",
        "open_ticket_count": "And still does.",
        "days_since_last_ticket": "Trouble of last week differs from trouble of last year.",
        "csat_mean": "Whether the help helped.",
        "review_count": "Who writes is engaged.",
        "rating_mean": "How content the customer is, in stars.",
        "last_rating": "How content the customer was last.",
        "rating_change": "Content less than usual, whatever is usual for who gives stars.",
        "low_rating_count": "Bad experiences weigh more than good ones.",
        "days_since_last_review": "Who lately wrote is engaged still.",
    },
    "E-mail and contacts": {
        "email_open_count": "Attention to the shop.",
        "email_click_count": "Attention close to buying.",
        "email_open_rate": "Attention, whatever was sent.",
        "days_since_last_email_open": "Who still reads has not left, even without coming by.",
        "contact_count": "Who was contacted may have come back because of it.",
        "contact_response_rate": "Who buys after contacts may need one; who does not may be past "
        "them.",
        "days_since_last_contact": "The effect of a contact wears off.",
    },
}

# What is missing from a family, and why.
NOTES: Mapping[str, str] = {
    "The same weeks a year ago": "No feature tells the day of the year, the week or the month. On "
    "one day all customers share it, so it cannot rank them; and a history of under two years "
    "holds each date once, so it would name the snapshot, and a model could learn by heart how "
    "many churned after it. These features differ between customers of one day.",
}

# Where the name does not say it.
WINDOWS: Mapping[str, str] = {
    "days_since_last_order": "all history",
    "days_since_first_order": "all history",
    "is_tenure_censored": "all history",
    "days_since_created": "all history",
    "gap_mean_days": "all history",
    "gap_median_days": "all history",
    "gap_stddev_days": "all history",
    "gap_p90_days": "all history",
    "silence_ratio": "all history",
    "silence_p90_ratio": "all history",
    "alive_probability": "all history",
    "purchase_probability_30d": "all history",
    "order_count_change_90d": "last 90 days and the 90 before",
    "revenue_amount_change_90d": "last 90 days and the 90 before",
    "average_order_amount_change_90d": "last 90 days and the 90 before",
    "days_since_last_return": "all history",
    "event_count_change_30d": "last 30 days and the 30 before",
    "open_coupon_count": "at the end of D",
    "order_count_same_weeks_last_year": "90 days, a year ago",
    "revenue_amount_same_weeks_last_year": "90 days, a year ago",
    "same_weeks_order_share": "90 days, a year ago",
    "has_last_year": "all history",
    "undelivered_order_count": "15 to 179 days ago",
    "days_since_last_event": "all history",
    "days_since_last_cart": "all history",
    "event_decay_ratio_30d": "last 7 and last 30 days",
    "open_ticket_count": "last 180 days",
    "days_since_last_ticket": "all history",
    "last_rating": "all history",
    "rating_change": "all history and last 365 days",
    "days_since_last_review": "all history",
    "days_since_last_email_open": "all history",
    "days_since_last_contact": "all history",
}

_WINDOW = re.compile(r"_(?:(\d+)d|lifetime)$")


def measure(feature: str) -> str:
    """Return the name of a feature without its window, and without `_days` of a gap or mean."""
    name = _WINDOW.sub("", feature)
    return re.sub(r"^(gap_\w+?)_days$", r"\1", name)


def window(feature: str) -> str:
    """Return in words which days a feature looks at.

    Raises:
        KeyError: neither the name nor `WINDOWS` says it.
    """
    if feature in WINDOWS:
        return WINDOWS[feature]
    found = _WINDOW.search(feature)
    if found is None:
        raise KeyError(f"{feature}: add its window to docs/generate.py")
    return f"last {found[1]} days" if found[1] else "all history"


def descriptions() -> dict[str, str]:
    """Return dbt's description of every column of `customer_features`."""
    import yaml

    models = yaml.safe_load(MARTS.read_text(encoding="utf-8"))["models"]
    (features,) = [model for model in models if model["name"] == "customer_features"]
    return {c["name"]: " ".join(c["description"].split()) for c in features["columns"]}


def feature_catalogue() -> str:
    """Return docs/feature-catalogue.md.

    Raises:
        KeyError: a feature of the contract between mart and models has no family here.
    """
    from ml.features import FEATURES, NULLABLE

    said = descriptions()
    family_of = {name: family for family, measures in REASONS.items() for name in measures}
    rows: dict[str, list[str]] = {family: [] for family in REASONS}
    told: set[str] = set()
    for feature in FEATURES:
        name = measure(feature)
        if name not in family_of:
            raise KeyError(f"{feature}: add a reason for {name!r} to docs/generate.py")
        family = family_of[name]
        may_be_null = feature in NULLABLE and "null" not in said[feature]
        reason = "" if name in told else f"{REASONS[family][name]} "
        told.add(name)
        rows[family].append(
            f"| `{feature}` | {window(feature)} | {_cell(said[feature])}"
            f"{' Can be null.' if may_be_null else ''} | {reason}|"
        )
    parts = [
        "# Feature catalogue",
        "<!-- Made by `python -m docs.generate` from dbt_project/models/marts/_marts.yml, "
        "ml/features.py and docs/generate.py. -->",
        f"`customer_features` has one row per customer of the population and day D, and "
        f"{len(FEATURES)} features. Windows end with D inclusive. A feature of D knows what had "
        "happened and was known by the end of D, in the shop's time zone, and nothing later "
        "([architecture](architecture.md#time)). Amounts are in the shop's currency. The last "
        "column says why a measure was tried; how much it helps a model is in MLflow, with the "
        "importances.",
        "Country, gender, birth year and the shop's ids are in no feature; what is known of the "
        "person, `account_type` and `main_category` are beside them as context.",
    ]
    for family, lines in rows.items():
        parts.append(f"## {family}")
        if family in NOTES:
            parts.append(NOTES[family])
        parts.append(
            "\n".join(
                [
                    "| feature | window | what it is | why it may help |",
                    "| --- | --- | --- | --- |",
                    *lines,
                ]
            )
        )
    return "\n\n".join(parts) + "\n"


def source_contract(contract: Contract | None = None) -> str:
    """Return docs/source-contract.md."""
    from orchestration.defs.sources.contract import ARRIVED_AT, load_contract

    contract = contract or load_contract()
    overview = ["| table | needed | columns |", "| --- | --- | --- |"]
    for table in contract.tables:
        names = ", ".join(
            f"**{c.name}**" if c.required else c.name for c in table.columns if c.name != ARRIVED_AT
        )
        needed = "yes" if table.required else "no"
        overview.append(f"| [{table.name}](#{table.name}) | {needed} | {names} |")
    parts = [
        "# The source contract",
        "<!-- Made by `python -m docs.generate` from orchestration/defs/sources/contract.yaml. -->",
        "What a shop delivers: CSV or Parquet files in `landing/<table>/`, with these column "
        "names. Columns in bold must be there, and no row may leave them empty. A table or column "
        "that is not needed may be absent: the features on it are then zero or empty.",
        "\n".join(overview),
        "Any table may also carry `arrived_at`: when the row became known. A row with it counts "
        "from that day on. A row without it counts from its business time on, so if it lands late, "
        "the days that should have seen it are stale ([late data](how-to/late-data.md)).",
        "Types are read as declared, never guessed: `string`; `integer` (32 bit); `decimal` (18 "
        "digits, 4 of them after the point); `timestamp` (ISO 8601; without a zone it is the "
        "shop's time). Of several deliveries of one key the latest wins and the older ones are "
        "kept. A row that breaks the contract goes to quarantine with reason, file and line; a "
        "file with more than 1 % of such rows is refused.",
        "*Identifier*: goes to the vault and nowhere else; `customer_id` is a pseudonym after "
        "that. *Outcome*: what became of the row later; nothing before that time knows it.",
    ]
    parts += [_table(table) for table in contract.tables]
    return "\n\n".join(parts) + "\n"


def _table(table: SourceTable) -> str:
    key = ", ".join(f"`{name}`" for name in table.primary_key)
    time = f"`{table.event_time}`" if table.event_time else "none of its own"
    needed = "Needed." if table.required else "Not needed."
    lines = [
        f"## {table.name}",
        "",
        f"{table.description} {needed} Key: {key}. Business time: {time}.",
        "",
        "| column | type | what it is |",
        "| --- | --- | --- |",
    ]
    for column in table.columns:
        name = f"**{column.name}**" if column.required else column.name
        lines.append(f"| {name} | {column.type} | {_cell(_meaning(column))} |")
    return "\n".join(lines)


def _meaning(column: SourceColumn) -> str:
    notes = []
    if column.allowed:
        notes.append(f"One of {', '.join(column.allowed)}.")
    elif column.pattern is not None:
        notes.append(f"Looks like `{column.pattern}`.")
    elif column.minimum is not None and column.maximum is not None:
        notes.append(f"From {column.minimum} to {column.maximum}.")
    elif column.minimum is not None:
        notes.append(f"At least {column.minimum}.")
    if column.default is not None:
        notes.append(f"Where it is empty or absent: {column.default}.")
    if column.identifier:
        notes.append("*Identifier.*")
    if column.outcome:
        notes.append("*Outcome.*")
    if column.known_with:
        notes.append(f"Known with `{column.known_with}`.")
    return " ".join([column.description, *notes])


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


GENERATED: Mapping[Path, Callable[[], str]] = {
    ROOT / "docs" / "source-contract.md": source_contract,
    ROOT / "docs" / "feature-catalogue.md": feature_catalogue,
}


if __name__ == "__main__":
    for path, make in GENERATED.items():
        path.write_text(make(), encoding="utf-8")
        print(path.relative_to(ROOT))
