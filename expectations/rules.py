"""Business rules: what must hold for a table beyond its declaration, one SQL condition each.

Belongs here: the rules, by table name, with severity and reason. Does not belong here: what follows
from a declaration (types, nulls, bounds, keys: `suites.py`), how a condition is evaluated
(`library.py`).

A `rows` condition must hold for every row. As in a CHECK constraint of SQL, a row for which it is
unknown (an input is null) passes: whether null is legal is declared. Window functions are allowed,
and cost several times a `groups` condition, which is over the aggregates of the rows that agree in
the columns `by`; unknown passes, and a window sees all groups. A `table` condition is over the
aggregates of all rows (called `batch` in a subquery) and must be true, unless the batch is empty.
`{active_window_days}` and `{horizon_days}` stand for settings.

Critical blocks publishing: the row is wrong whatever the shop did. Warning is told and published:
unusual, but a shop could bring it about.

What a declaration already says (bounds, allowed values, the contract of the raw tables) is not said
again here. In raw tables all rules warn: the loader has put aside what breaks the contract, and one
odd row of a shop must not stop its day; the tables made from them are critical.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass
from typing import Literal

Severity = Literal["critical", "warning"]
Scope = Literal["rows", "groups", "table"]

#: What conditions may refer to as `{name}`; the shop's settings take the place of these.
DEFAULT_PARAMETERS: dict[str, int] = {"active_window_days": 180, "horizon_days": 90}

#: An e-mail address, good enough to find one that went astray (linear time in RE2).
CONTACT_PATTERN = r"[[:alnum:]._%+-]+@[[:alnum:]-]+\.[[:alnum:].-]+"

#: The eleven standard RFM segments.
RFM_SEGMENTS: tuple[str, ...] = (
    "Champions",
    "Loyal",
    "Potential loyalist",
    "New customers",
    "Promising",
    "Need attention",
    "About to sleep",
    "At risk",
    "Cannot lose them",
    "Hibernating",
    "Lost",
)


@dataclass(frozen=True)
class Rule:
    """A condition in SQL, why it must hold and what its failure means."""

    name: str
    condition: str
    reason: str
    severity: Severity = "critical"
    scope: Scope = "rows"
    by: tuple[str, ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that the condition refers to: keywords are in upper case, columns in lower."""
        text = re.sub(r"'[^']*'|\{\w+\}", " ", self.condition)
        words = re.findall(r"\b[a-z_][a-z0-9_]*\b(?!\s*\()", text)
        return tuple(dict.fromkeys(word for word in (*self.by, *words) if word != "batch"))


def _nested(stem: str, *suffixes: str) -> Rule:
    """A count over a longer window is at least the count over a shorter one."""
    names = [f"{stem}_{suffix}" for suffix in suffixes]
    pairs = [f"{a} <= {b}" for a, b in itertools.pairwise(names)]
    return Rule(
        f"{stem}_nested", " AND ".join(pairs), "a longer window holds all that a shorter one does"
    )


def _not_before(later: str, earlier: str, reason: str, severity: Severity = "warning") -> Rule:
    return Rule(f"{later}_not_before_{earlier}", f"{later} >= {earlier}", reason, severity)


def _each_label_window(condition: str) -> str:
    """A condition for each window after the snapshot that labels tell of."""
    return " AND ".join(f"({condition.replace('{n}', str(n))})" for n in _LABEL_WINDOWS)


_WINDOWS = (30, 90, 180, 365)
_LABEL_WINDOWS = (30, 60, 90)
_VALUE_WINDOWS = (30, 90, 365)

RULES: dict[str, tuple[Rule, ...]] = {
    # ------------------------------------------------------------------ raw, as the shop sent it
    "raw_orders": (
        _not_before("delivered_at", "ordered_at", "nothing arrives before it is ordered"),
        _not_before("cancelled_at", "ordered_at", "nothing is cancelled before it is ordered"),
    ),
    "raw_order_items": (
        Rule(
            "cancelled_within_quantity",
            "cancelled_quantity <= quantity",
            "no more can be cancelled than was ordered",
            "warning",
        ),
    ),
    "raw_products": (
        Rule(
            "sold_above_cost",
            "count(*) FILTER (WHERE unit_cost > list_price) <= 0.5 * count(*)",
            "most products cost more than their price: are the two columns swapped?",
            "warning",
            "table",
        ),
    ),
    "raw_coupons": (
        _not_before("redeemed_at", "issued_at", "a coupon is redeemed after it was issued"),
        _not_before("expires_at", "issued_at", "a coupon expires after it was issued"),
    ),
    "raw_consents": (_not_before("expires_at", "changed_at", "consent expires after it began"),),
    "raw_support_tickets": (
        _not_before("closed_at", "opened_at", "a ticket is closed after it was opened"),
    ),
    "raw_deliveries": (
        _not_before("opened_at", "sent_at", "a message is opened after it was sent"),
        _not_before("clicked_at", "sent_at", "a message is clicked after it was sent"),
    ),
    # ------------------------------------------------------------------ mart
    "orders": (
        Rule(
            "revenue_adds_up",
            "abs(gross_amount - cancelled_amount - discount_amount - revenue_amount) < 0.01",
            "revenue is what was ordered less what was cancelled and discounted",
        ),
        Rule(
            "cancelled_earns_nothing",
            "NOT is_wholly_cancelled OR revenue_amount = 0",
            "a wholly cancelled order never counts as a purchase",
        ),
        Rule(
            "margin_known_agrees",
            "is_margin_known = (margin_amount IS NOT NULL)",
            "a margin is known or null, never guessed",
        ),
        Rule(
            "nothing_after_the_snapshot",
            "ordered_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
        _not_before("delivered_at", "ordered_at", "nothing arrives before it is ordered"),
    ),
    "order_lines": (
        Rule(
            "cancelled_within_quantity",
            "cancelled_quantity <= quantity",
            "no more can be cancelled than was ordered",
        ),
        Rule(
            "net_within_gross",
            "net_amount BETWEEN 0 AND gross_amount",
            "cancelling takes away what was ordered, no more",
        ),
        Rule(
            "margin_known_agrees",
            "is_margin_known = (net_margin_amount IS NOT NULL)",
            "a margin is known or null, never guessed",
        ),
        Rule(
            "nothing_after_the_snapshot",
            "ordered_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
    ),
    "deliveries": (
        Rule(
            "nothing_after_the_snapshot",
            "sent_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
        _not_before("opened_at", "sent_at", "a message is opened after it was sent"),
        _not_before("clicked_at", "sent_at", "a message is clicked after it was sent"),
    ),
    "customer_features": (
        _nested("order_count", *(f"{w}d" for w in _WINDOWS), "lifetime"),
        _nested("event_count", "7d", "30d", "90d"),
        _nested("event_day_count", "30d", "90d"),
        _nested("ticket_count", "90d", "365d"),
        _nested("contact_count", "30d", "90d", "365d"),
        Rule(
            "population_is_active",
            "days_since_last_order < {active_window_days}",
            "customers outside the population are never scored",
        ),
        Rule(
            "windows_agree_with_recency",
            " AND ".join(
                f"(days_since_last_order < {w}) = (order_count_{w}d > 0)" for w in _WINDOWS
            ),
            "window w holds days D-w+1 to D: an off-by-one in either shows here",
        ),
        Rule(
            "last_order_after_first",
            "days_since_last_order <= days_since_first_order",
            "the last order is not before the first",
        ),
        Rule(
            "last_days_agree_with_windows",
            " AND ".join(
                f"(coalesce(days_since_last_{what}, {w}) < {w}) = ({count}_{w}d > 0)"
                for what, count, w in (
                    ("cart", "cart_count", 30),
                    ("email_open", "email_open_count", 90),
                    ("ticket", "ticket_count", 90),
                    ("review", "review_count", 365),
                    ("return", "return_count", 365),
                )
            ),
            "what happened last within a window is counted in it, and nothing else is",
        ),
        Rule(
            "order_days_within_orders",
            "order_day_count_365d <= order_count_365d",
            "a day with orders holds at least one",
        ),
        Rule(
            "order_count_change_agrees",
            "order_count_change_90d = 2 * order_count_90d - order_count_180d",
            "the last 90 days less the 90 before them, from the same counts",
        ),
        Rule(
            "revenue_amount_change_agrees",
            "abs(revenue_amount_change_90d - 2 * revenue_amount_90d + revenue_amount_180d) < 0.01",
            "the last 90 days less the 90 before them, from the same amounts",
        ),
        Rule(
            "largest_order_above_mean",
            "max_order_amount_365d >= average_order_amount_365d - 0.01",
            "a mean does not exceed the maximum",
        ),
        Rule(
            "gap_quantiles_ordered",
            "gap_median_days <= gap_p90_days",
            "the median does not exceed the 90th percentile",
        ),
        Rule(
            "rates_within_one",
            "return_rate_365d BETWEEN 0 AND 1 AND discount_rate_365d BETWEEN 0 AND 1",
            "orders that came back are orders, and a discount takes at most all",
        ),
        Rule(
            "revenue_nested",
            "revenue_amount_30d <= revenue_amount_90d "
            "AND revenue_amount_90d <= revenue_amount_180d "
            "AND revenue_amount_180d <= revenue_amount_365d",
            "amounts are not negative once cancellations are taken off their orders; a shop that "
            "books corrections as orders below zero breaks this",
            "warning",
        ),
        Rule(
            "silence_not_negative",
            "silence_ratio >= 0 AND silence_p90_ratio >= 0",
            "both silence and gaps are lengths of time",
        ),
        Rule(
            "purchase_needs_life",
            "0 <= purchase_probability_30d AND purchase_probability_30d <= alive_probability "
            "AND alive_probability <= 1",
            "probabilities; who buys within 30 days is alive",
        ),
        Rule(
            "rhythm_needs_a_gap",
            "(silence_ratio IS NULL) = (silence_p90_ratio IS NULL) "
            "AND (silence_ratio IS NULL) = (alive_probability IS NULL) "
            "AND (alive_probability IS NULL) = (purchase_probability_30d IS NULL)",
            "all of them need the shop's rhythm, and nothing else",
        ),
        Rule(
            "order_amount_change_needs_both",
            "(average_order_amount_change_90d IS NOT NULL) "
            "= (order_count_90d > 0 AND order_count_180d > order_count_90d)",
            "a change of the mean order needs an order before and after it",
        ),
        Rule(
            "categories_agree",
            "(main_category IS NULL) = (category_count_365d = 0) "
            "AND (main_category_share_365d IS NULL) = (category_count_365d = 0) "
            "AND (category_entropy_365d IS NULL) = (category_count_365d = 0)",
            "who bought of a category has a main one",
        ),
        Rule(
            "entropy_within_categories",
            "category_entropy_365d BETWEEN 0 AND ln(greatest(category_count_365d, 1)) + 1e-6",
            "zero for one category, and largest where all have the same share",
        ),
        Rule(
            "events_within_windows",
            "event_day_count_30d <= least(event_count_30d, 30) "
            "AND event_day_count_90d <= least(event_count_90d, 90) "
            "AND view_count_30d + cart_count_30d <= event_count_30d "
            "AND session_count_30d <= event_count_30d",
            "days, kinds and sessions are made of events",
        ),
        Rule(
            "event_decay_agrees",
            "abs(event_decay_ratio_30d * 7 * event_count_30d - 30 * event_count_7d) < 0.001 "
            "AND (event_decay_ratio_30d IS NULL) = (event_count_30d = 0)",
            "events per day of 7 days over those of 30, from the same counts",
        ),
        Rule(
            "response_needs_a_contact",
            "(contact_response_rate_365d IS NULL) = (contact_count_365d = 0)",
            "nobody answers what was not sent",
        ),
        Rule(
            "same_weeks_within_year",
            "abs(same_weeks_order_share * order_count_365d - order_count_same_weeks_last_year) "
            "< 0.001 AND (same_weeks_order_share IS NULL) "
            "= (NOT has_last_year OR order_count_365d = 0)",
            "the orders of those weeks are among those of the year",
        ),
        Rule(
            "ratings_on_scale",
            "rating_mean_365d BETWEEN 1 AND 5 AND last_rating BETWEEN 1 AND 5",
            "the contract's scale",
        ),
        Rule(
            "rating_change_agrees",
            "abs(rating_change - last_rating + rating_mean_365d) < 0.001 "
            "AND (rating_change IS NULL) = (last_rating IS NULL OR rating_mean_365d IS NULL)",
            "the last rating less the mean",
        ),
        Rule(
            "low_ratings_within_reviews",
            "low_rating_count_180d <= review_count_365d",
            "a low rating is a review",
        ),
        Rule(
            "late_or_missing_deliveries_within_orders",
            "undelivered_order_count <= order_count_180d",
            "an undelivered order is a valid order of the last 180 days",
        ),
        Rule(
            "population_varies",
            "count(*) < 100 OR count(DISTINCT days_since_last_order) > 1",
            "one value for everybody is a broken join or a day whose orders did not arrive",
            "warning",
            "table",
        ),
    ),
    "customer_status": (
        Rule(
            "lifecycle_agrees_with_orders",
            "(lifecycle = 'prospect') = (order_count_lifetime = 0) "
            "AND (lifecycle = 'prospect') = (last_order_date IS NULL)",
            "a prospect has never ordered, everybody else has",
        ),
        Rule(
            "lifecycle_agrees_with_recency",
            "lifecycle = 'prospect' "
            "OR (lifecycle = 'active') = (days_since_last_order < {active_window_days})",
            "active is the population of churn, and nothing else",
        ),
        Rule(
            "recency_agrees_with_date",
            "days_since_last_order = date_diff('day', last_order_date, snapshot_date)",
            "both say when the last order was",
        ),
        Rule(
            "first_order_before_last",
            "first_order_date <= last_order_date",
            "the last order is not before the first",
        ),
        Rule(
            "nothing_after_the_snapshot",
            "last_order_date <= snapshot_date AND last_contact_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
        Rule(
            "orders_within_lifetime",
            "order_count_365d <= order_count_lifetime",
            "a lifetime holds its last year",
        ),
        Rule(
            "order_windows_nested",
            "order_count_30d <= order_count_90d AND order_count_90d <= order_count_365d",
            "a longer window holds all that a shorter one does",
        ),
        Rule(
            "windows_agree_with_recency",
            "(coalesce(days_since_last_order, 90) < 90) = (order_count_90d > 0) "
            "AND (coalesce(days_since_last_order, 30) < 30) = (order_count_30d > 0)",
            "window w holds days D-w+1 to D: an off-by-one in either shows here",
        ),
        Rule(
            "tenure_agrees_with_date",
            "days_since_first_order = date_diff('day', first_order_date, snapshot_date)",
            "both say when the first order was",
        ),
        Rule(
            "recent_categories_are_categories",
            "categories_7d IS NULL OR categories_30d IS NOT NULL",
            "what was bought within 7 days was bought within 30",
        ),
        Rule(
            "contacts_nested",
            "contact_count_7d <= contact_count_30d",
            "a longer window holds all that a shorter one does",
        ),
    ),
    "churn_labels": (
        Rule(
            "label_agrees_with_orders",
            "(is_churned = 1) = (order_count_horizon = 0) AND "
            + _each_label_window("(is_churned_{n}d = 1) = (order_count_next_{n}d = 0)"),
            "churned is no valid order in the horizon, no activity at all included",
        ),
        Rule(
            "churned_earns_nothing",
            "(is_churned = 0 OR revenue_amount_horizon = 0) AND "
            + _each_label_window("is_churned_{n}d = 0 OR revenue_amount_next_{n}d = 0"),
            "without an order there is no revenue",
        ),
        Rule(
            "label_is_binary",
            "is_churned IN (0, 1) AND " + _each_label_window("is_churned_{n}d IN (0, 1)"),
            "0 or 1",
        ),
        _nested("order_count", *(f"next_{n}d" for n in _LABEL_WINDOWS), "horizon"),
        Rule(
            "windows_have_matured",
            _each_label_window(
                "(is_churned_{n}d IS NULL) = (horizon_days < {n}) "
                "AND (order_count_next_{n}d IS NULL) = (horizon_days < {n}) "
                "AND (revenue_amount_next_{n}d IS NULL) = (horizon_days < {n}) "
                "AND (margin_amount_next_{n}d IS NULL OR horizon_days >= {n})"
            ),
            "what is longer than the horizon has not ended yet, and the rest has",
        ),
        Rule(
            "horizon_agrees_with_its_window",
            _each_label_window(
                "horizon_days <> {n} OR (order_count_next_{n}d = order_count_horizon "
                "AND revenue_amount_next_{n}d = revenue_amount_horizon)"
            ),
            "the window as long as the horizon is the horizon",
        ),
        Rule(
            "margin_of_windows_known",
            _each_label_window(
                "margin_amount_horizon IS NULL OR horizon_days < {n} "
                "OR margin_amount_next_{n}d IS NOT NULL"
            ),
            "where every cost of the horizon is known, so is that of its first days",
        ),
        Rule(
            "next_order_within_horizon",
            "days_to_next_order BETWEEN 1 AND horizon_days",
            "the horizon begins on the day after the snapshot",
        ),
        Rule(
            "next_order_agrees_with_orders",
            "(days_to_next_order IS NULL) = (order_count_horizon = 0) AND "
            + _each_label_window(
                "(order_count_next_{n}d = 0) = (coalesce(days_to_next_order, {n} + 1) > {n})"
            ),
            "a window holds an order from the day of the first one on: an off-by-one shows here",
        ),
        Rule(
            "personal_label_is_binary",
            "is_churned_personal IN (0, 1)",
            "0 or 1, null until it has matured",
        ),
        Rule(
            "personal_label_has_matured",
            "(is_churned_personal IS NULL) = (personal_horizon_days > horizon_days)",
            "a longer horizon than the common one has not ended yet",
        ),
        Rule(
            "horizon_has_passed",
            "date_diff('day', snapshot_date, matured_date) = horizon_days "
            "AND horizon_days = {horizon_days}",
            "a label is published on the day on which it matures",
        ),
        Rule(
            "personal_horizon_within_bounds",
            "personal_horizon_days BETWEEN 30 AND 180",
            "clipped to 30 to 180 days",
        ),
        Rule(
            "churn_rate_plausible",
            "count(*) < 100 OR avg(is_churned) BETWEEN 0.01 AND 0.99",
            "all or nobody churned: orders of the horizon missing, or a label inverted",
            "warning",
            "table",
        ),
    ),
    "churn_returns": (
        Rule(
            "silence_longer_than_horizon",
            "days_silent > {horizon_days}",
            "who bought within the horizon had not churned",
        ),
        Rule(
            "silence_agrees_with_dates",
            "days_silent = date_diff('day', silent_since_date, returned_date)",
            "both say how long it was",
        ),
        Rule(
            "first_label_agrees_with_silence",
            "date_diff('day', silent_since_date, first_matured_date) = {horizon_days}",
            "the label of the day of the last order is the first to say churned",
        ),
        Rule(
            "nothing_after_the_snapshot",
            "returned_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
        Rule(
            "withdrawn_earns_nothing",
            "NOT is_withdrawn OR revenue_amount = 0",
            "what was no return brought nothing back",
        ),
    ),
    # ------------------------------------------------------------------ outputs
    "churn_scores": (
        Rule(
            "rank_is_total_order",
            "churn_rank = row_number() OVER (ORDER BY churn_probability DESC, customer_key)",
            "1 to n without gap or tie, the riskiest first, ties by customer_key",
        ),
        Rule(
            "deciles_balanced",
            "abs(count(*) - sum(count(*)) OVER () / 10.0) < 1",
            "each decile holds a tenth",
            scope="groups",
            by=("churn_decile",),
        ),
        Rule(
            "deciles_follow_ranks",
            "churn_decile >= lag(churn_decile, 1, 1) OVER (ORDER BY churn_rank) "
            "AND churn_decile BETWEEN 1 AND 10",
            "decile 1 is the riskiest",
        ),
        Rule(
            "bands_follow_probabilities",
            "CASE risk_band WHEN 'high' THEN 3 WHEN 'medium' THEN 2 WHEN 'low' THEN 1 END "
            "<= lag(CASE risk_band WHEN 'high' THEN 3 WHEN 'medium' THEN 2 WHEN 'low' THEN 1 END) "
            "OVER (ORDER BY churn_rank)",
            "nobody riskier is in a lower band",
        ),
        Rule(
            "margin_at_risk_agrees",
            "abs(margin_at_risk_amount - churn_probability * expected_margin_amount) < 0.01",
            "probability times expected margin",
        ),
        Rule(
            "rescore_agrees_with_model",
            "is_rescore = (model_last_matured_date > snapshot_date)",
            "a score by a model that saw the future is named as such",
        ),
        Rule(
            "one_model",
            "count(DISTINCT model_name) = 1 AND count(DISTINCT model_version) = 1",
            "one model scores one day",
            scope="table",
        ),
        Rule(
            "mean_probability_plausible",
            "count(*) < 100 OR avg(churn_probability) BETWEEN 0.01 AND 0.99",
            "all or nobody about to leave: broken features, or labels inverted",
            "warning",
            "table",
        ),
        Rule(
            "scores_vary",
            "count(*) < 100 OR count(DISTINCT churn_probability) > 1",
            "a constant score ranks by customer_key alone",
            "warning",
            "table",
        ),
    ),
    "customer_segments": (
        Rule(
            "rfm_segment_known",
            f"rfm_segment IN ({', '.join(repr(name) for name in RFM_SEGMENTS)})",
            "the eleven standard segments",
        ),
        Rule(
            "rfm_code_agrees_with_scores",
            "rfm_code = 100 * recency_score + 10 * frequency_score + monetary_score "
            "AND (rfm_code IS NULL) = (recency_score IS NULL) "
            "AND (rfm_code IS NULL) = (frequency_score IS NULL) "
            "AND (rfm_code IS NULL) = (monetary_score IS NULL)",
            "the code is its three scores",
        ),
        Rule(
            "rfm_code_names_one_segment",
            "min(rfm_segment) = max(rfm_segment)",
            "each of the 125 codes belongs to one segment",
            scope="groups",
            by=("rfm_code",),
        ),
        Rule(
            "prospects_have_no_rfm",
            "(lifecycle = 'prospect') = (rfm_segment IS NULL) "
            "AND (rfm_segment IS NULL) = (rfm_code IS NULL)",
            "who never ordered has no recency; everybody else has a segment",
        ),
        Rule(
            "cluster_has_one_name",
            "min(cluster_name) = max(cluster_name)",
            "a cluster keeps its name",
            scope="groups",
            by=("cluster_id",),
        ),
        Rule(
            "clusters_not_tiny",
            "cluster_id IS NULL OR sum(count(cluster_id)) OVER () < 500 "
            "OR count(*) >= 0.01 * sum(count(cluster_id)) OVER ()",
            "a cluster under 1 % is an outlier, not a segment",
            "warning",
            "groups",
            ("cluster_id",),
        ),
    ),
    "customer_value": (
        Rule(
            "shorter_window_within_longer",
            "purchase_probability_7d <= purchase_probability_30d "
            "AND main_category_probability_7d <= main_category_probability_30d "
            "AND expected_order_count_30d <= expected_order_count_90d "
            "AND expected_order_count_90d <= expected_order_count_365d "
            "AND expected_revenue_amount_30d <= expected_revenue_amount_90d "
            "AND expected_revenue_amount_90d <= expected_revenue_amount_365d",
            "a longer window holds all that a shorter one does",
        ),
        Rule(
            "main_category_within_purchases",
            "main_category_probability_7d <= purchase_probability_7d "
            "AND main_category_probability_30d <= purchase_probability_30d",
            "an order that holds the main category is an order",
        ),
        Rule(
            "main_category_needs_one",
            "main_category IS NOT NULL OR (main_category_probability_7d IS NULL "
            "AND main_category_probability_30d IS NULL)",
            "who has no main category buys of none",
        ),
        Rule(
            "prospects_have_no_value",
            "(lifecycle = 'prospect') = (expected_order_count_30d IS NULL) "
            "AND "
            + " AND ".join(
                f"(expected_order_count_30d IS NULL) = (expected_{stem}_{days}d IS NULL)"
                for days in _VALUE_WINDOWS
                for stem in ("order_count", "revenue_amount", "margin_amount")
            ),
            "a value is made of a purchase history, and everybody who has one has a value",
        ),
        Rule(
            "intervals_in_order",
            " AND ".join(
                f"{stem}_low_{days}d <= {stem}_high_{days}d "
                f"AND ({stem}_low_{days}d IS NULL) = ({stem}_high_{days}d IS NULL)"
                for days in _VALUE_WINDOWS
                for stem in ("order_count", "revenue_amount", "margin_amount")
            ),
            "an interval has two ends, the lower one first",
        ),
        Rule(
            "rescore_agrees_with_model",
            "is_rescore = (model_last_matured_date > snapshot_date)",
            "a value by a model that saw the future is named as such",
        ),
        Rule(
            "one_model",
            "count(DISTINCT model_name) = 1 AND count(DISTINCT model_version) = 1",
            "one model values one day",
            scope="table",
        ),
        Rule(
            "purchases_vary",
            "count(*) < 100 OR count(DISTINCT purchase_probability_30d) > 1",
            "a constant probability ranks by customer_key alone",
            "warning",
            "table",
        ),
        Rule(
            "margin_below_revenue",
            "count(*) < 100 OR sum(expected_margin_amount_90d) <= sum(expected_revenue_amount_90d)",
            "a shop that earns more than it sells has costs below zero",
            "warning",
            "table",
        ),
    ),
    "at_risk_list": (
        Rule(
            "priority_is_dense",
            "priority = row_number() OVER (ORDER BY priority)",
            "1 to n without gap or tie",
        ),
        Rule(
            "priority_follows_margin_at_risk",
            "margin_at_risk_amount <= lag(margin_at_risk_amount) OVER (ORDER BY priority)",
            "who has most to lose comes first",
        ),
        Rule(
            "margin_at_risk_agrees",
            "abs(margin_at_risk_amount - churn_probability * expected_margin_amount) < 0.01",
            "probability times expected margin",
        ),
        Rule(
            "new_on_first_day",
            "is_new = (days_on_list = 1)",
            "who is new has been on the list for one day",
        ),
        Rule(
            "last_contact_not_after_the_snapshot",
            "last_contact_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
    ),
    # ------------------------------------------------------------------ campaigns
    "campaign_assignments": (
        Rule(
            "propensity_positive",
            "propensity > 0",
            "an assignment that could not happen cannot be weighted",
        ),
        Rule(
            "draws_below_one",
            "greatest(u_holdout, u_layer, u_coverage, u_arm) < 1",
            "draws of the hash lie in [0, 1)",
        ),
        Rule(
            "config_is_sha256",
            "regexp_full_match(config_sha256, '[0-9a-f]{64}')",
            "the assignment can be traced to its configuration",
        ),
        Rule(
            "assigned_from_the_past",
            "snapshot_date <= assigned_date",
            "assigned by what was known",
        ),
        Rule(
            "window_after_assignment",
            "window_end_date > assigned_date",
            "what counts comes after the assignment",
        ),
        Rule(
            "one_control_per_campaign",
            "min(CASE WHEN is_control THEN arm END) = max(CASE WHEN is_control THEN arm END)",
            "one arm gets nothing, and all of it",
            scope="groups",
            by=("campaign_id",),
        ),
        Rule(
            "one_configuration_per_campaign",
            "min(config_sha256) = max(config_sha256)",
            "one day, one campaign, one set of weights",
            scope="groups",
            by=("campaign_id",),
        ),
        Rule(
            "one_propensity_per_arm",
            "min(propensity) = max(propensity)",
            "everybody in an arm (of a segment, where a policy draws) had the same chance of it",
            scope="groups",
            by=("campaign_id", "segment", "arm"),
        ),
        Rule(
            "propensities_sum_within_one",
            "(SELECT max(propensity) FROM (SELECT sum(propensity) AS propensity FROM "
            "(SELECT DISTINCT campaign_id, segment, arm, propensity FROM batch) "
            "GROUP BY campaign_id, segment)) "
            "<= 1 + 1e-9",
            "the arms of a campaign exclude each other",
            scope="table",
        ),
    ),
    "campaign_cohorts": (
        Rule(
            "excluded_has_reason",
            "is_eligible = (exclusion_reason IS NULL)",
            "an exclusion without a reason cannot be explained, one with a reason is one",
        ),
        Rule(
            "excluded_has_no_arm",
            "is_eligible OR arm IS NULL",
            "who is excluded is excluded before randomisation",
        ),
        Rule(
            "arm_has_propensity",
            "(arm IS NULL) = (propensity IS NULL)",
            "every assignment has its probability, nobody else has one",
        ),
        Rule(
            "propensity_positive",
            "propensity > 0",
            "an assignment that could not happen cannot be weighted",
        ),
    ),
    "campaign_deliveries": (
        Rule(
            "sent_by_the_snapshot",
            "sent_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
        Rule(
            "arm_comes_with_assignment",
            "(arm IS NULL) = (assigned_date IS NULL) AND (arm IS NULL) = (is_control IS NULL)",
            "an arm is drawn on a day, and is the control or not",
        ),
        Rule(
            "controls_get_nothing",
            "NOT is_control",
            "a control who got the message is no control: the effect is diluted",
            "warning",
        ),
        Rule(
            "everybody_gets_their_arm",
            "NOT is_other_arm",
            "a message of another arm than was drawn: the arms grow alike",
            "warning",
        ),
        Rule(
            "only_the_assigned_get_it",
            "arm IS NOT NULL",
            "a message to somebody who was not assigned, the holdout perhaps",
            "warning",
        ),
        Rule(
            "sent_after_assignment",
            "sent_date > assigned_date",
            "a message of the campaign before the draw is no treatment",
            "warning",
        ),
        Rule(
            "other_arm_is_told",
            "is_other_arm = (sent_arm <> arm)",
            "it is another arm if the tool names another",
        ),
    ),
    "campaign_outcomes": (
        Rule(
            "window_after_assignment",
            "assigned_date < window_end_date AND window_end_date <= settled_date",
            "what counts comes after the assignment, and returns after that",
        ),
        Rule(
            "told_when_due",
            "snapshot_date = window_end_date OR snapshot_date = settled_date",
            "a window that is open has no outcome, and a settled one no other",
        ),
        Rule(
            "retained_agrees_with_orders",
            "(retained = 1) = (order_count > 0)",
            "who has no order within the window has churned in it",
        ),
        Rule(
            "nothing_without_an_order",
            "order_count > 0 OR (revenue_amount = 0 AND margin_amount = 0 AND discount_amount = 0)",
            "money comes from orders",
        ),
        Rule(
            "delivered_was_sent",
            "(is_sent OR NOT is_delivered) AND (is_sent OR NOT is_opened) "
            "AND (is_sent OR NOT is_clicked) AND (is_sent OR is_sent_other_arm IS NULL)",
            "only what was sent arrives",
        ),
        Rule(
            "profit_adds_up",
            "abs(profit_amount - (net_margin_amount - (cost_amount - discount_amount))) < 0.01",
            "net margin less contacts; discounts are out of the margin already",
        ),
    ),
    "campaign_results": (
        Rule(
            "effect_within_interval",
            "effect_low <= effect AND effect <= effect_high",
            "an interval holds its estimate",
        ),
        Rule("arm_is_not_control", "arm <> control_arm", "an arm compared with itself"),
        Rule(
            "look_by_the_snapshot",
            "look_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
        Rule(
            "measured_were_assigned",
            "customer_count_arm <= assigned_count_arm "
            "AND customer_count_control <= assigned_count_control",
            "who is measured was assigned",
        ),
        Rule(
            "mismatch_has_status",
            "status = 'invalid' OR least(srm_p_eligible, srm_p_assigned, srm_p_sent, "
            "srm_p_delivered, srm_p_measured) >= 0.001",
            "a sample ratio mismatch invalidates the reading and says so",
        ),
        Rule(
            "nothing_to_read_unless_valid",
            "status <> 'invalid' OR (effect IS NULL AND decision IS NULL)",
            "an effect that is shown is believed",
        ),
        Rule(
            "open_windows_decide_nothing",
            "status <> 'window_open' "
            "OR (p_value IS NULL AND decision IS NULL AND (look > 0 OR effect IS NULL))",
            "an interim look has an interval that holds at all looks, and no verdict",
        ),
        Rule(
            "guardrails_have_a_margin",
            "(role = 'guardrail') = (non_inferiority_margin IS NOT NULL)",
            "a guardrail tolerates a declared harm, and nothing else does",
        ),
    ),
    # ------------------------------------------------------------------ uplift
    "uplift_scores": (
        Rule(
            "rank_is_total_order",
            "uplift_rank = row_number() OVER "
            "(PARTITION BY campaign_id, arm ORDER BY expected_effect DESC, customer_key)",
            "1 to n for each offer, the largest effect first, ties by customer_key",
        ),
        Rule(
            "learned_from_the_past",
            "learned_until_date <= snapshot_date",
            "nothing after the end of D may be known on D",
        ),
        Rule(
            "one_model_per_offer",
            "count(DISTINCT concat(metric, learner, model_version)) = 1",
            "effects of two models or on two metrics cannot be ranked together",
            scope="groups",
            by=("campaign_id", "arm"),
        ),
        Rule(
            "effects_vary",
            "count(*) < 100 OR count(DISTINCT expected_effect) > 1",
            "a constant effect ranks by customer_key alone",
            "warning",
            "table",
        ),
    ),
    "offer_policy": (
        Rule(
            "propensities_sum_to_one",
            "abs(sum(propensity) - 1) < 1e-6",
            "everybody gets exactly one arm",
            scope="groups",
            by=("campaign_id", "segment"),
        ),
        Rule(
            "floor_is_kept",
            "propensity >= floor - 1e-9",
            "an arm that is never drawn teaches nothing, and cannot be weighted",
        ),
        Rule(
            "posterior_is_whole",
            "(posterior_mean IS NULL) = (best_probability IS NULL) "
            "AND (posterior_mean IS NULL) = (posterior_sd IS NULL)",
            "a chance without a posterior comes from nowhere",
        ),
        Rule(
            "worth_no_more_than_counted",
            "effective_count <= customer_count + 1e-6",
            "weights take information away, and never add any",
        ),
        Rule(
            "everybody_has_a_policy",
            "count(*) FILTER (WHERE segment = 'all') = 1",
            "a customer of an unknown segment takes that of all",
            scope="groups",
            by=("campaign_id", "arm"),
        ),
    ),
}
