"""Schema, version and primary key of every published table.

What belongs here: the declarations from which the Delta schema, the Great Expectations suite and
the column documentation of a table are made. Tables that dbt builds take their columns from the
dbt contract, so that they are declared once. A new column is nullable; a renamed or retyped one is
a new table.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from expectations.schema import Column, Table
from orchestration.resources.dbt import PROJECT

if TYPE_CHECKING:
    from expectations.schema import ColumnType

DBT_TYPES: dict[str, ColumnType] = {
    "varchar": "string",
    "integer": "integer",
    "bigint": "integer",
    "decimal(18,4)": "decimal",
    "double": "double",
    "boolean": "boolean",
    "date": "date",
    "timestamp": "timestamp",
}

# Units stand in the name of a column, and a unit has bounds. Amounts have none: a refund is
# negative. Changes between windows have a sign.
NOT_NEGATIVE = ("_count", "_days", "_at_days", "_rank")
SHARES = ("_rate", "_share")


def _bounds(name: str) -> tuple[int | None, int | None]:
    if "_change_" in name:
        return None, None
    stem = name.rsplit("_", 1)[0] if name[-1:] == "d" and name[-2:-1].isdigit() else name
    if stem.endswith(SHARES) and not name.startswith(("discount_rate", "return_rate")):
        return 0, 1
    if stem.endswith(NOT_NEGATIVE) or "_count" in stem or name.startswith("days_since"):
        return 0, None
    return None, None


@cache
def _dbt_models() -> dict[str, dict[str, Any]]:
    import yaml

    models: dict[str, dict[str, Any]] = {}
    for path in sorted((PROJECT / "models" / "marts").glob("*.yml")):
        for model in (yaml.safe_load(path.read_text()) or {}).get("models", []):
            models[model["name"]] = model
    return models


def from_dbt(
    name: str,
    primary_key: tuple[str, ...],
    partition_by: str = "snapshot_date",
    *,
    version: int = 1,
    may_be_empty: bool = False,
) -> Table:
    """Return the table that dbt's mart model `name` becomes when it is published."""
    columns = []
    for column in _dbt_models()[name]["columns"]:
        constraints = {item["type"] for item in column.get("constraints", [])}
        low, high = _bounds(column["name"])
        kind = DBT_TYPES[column["data_type"].lower().replace(" ", "")]
        numeric = kind in ("integer", "decimal", "double")
        columns.append(
            Column(
                column["name"],
                kind,
                nullable="not_null" not in constraints,
                minimum=low if numeric else None,
                maximum=high if numeric else None,
                description=" ".join(column.get("description", "").split()),
            )
        )
    return Table(name, version, primary_key, tuple(columns), partition_by, may_be_empty)


def _columns(text: str) -> tuple[Column, ...]:
    """Read `name type[?] [low..high | a|b|c]: description` lines; `?` marks a nullable column."""
    columns = []
    for line in filter(None, map(str.strip, text.strip().splitlines())):
        head, _, description = line.partition(": ")
        name, kind, *rule = head.split(maxsplit=2)
        low = high = allowed = None
        if rule and ".." in rule[0]:
            low, high = (float(v) if v else None for v in rule[0].split(".."))
        elif rule:
            allowed = tuple(rule[0].split("|"))
        columns.append(
            Column(
                name,
                kind.rstrip("?"),  # type: ignore[arg-type]
                nullable=kind.endswith("?"),
                minimum=low,
                maximum=high,
                allowed=allowed,
                description=description,
            )
        )
    return tuple(columns)


CHURN_SCORES = Table(
    "churn_scores",
    1,
    ("snapshot_date", "customer_key"),
    _columns("""
        snapshot_date date: the day that was scored
        customer_key string: pseudonym of the customer
        churn_probability double 0..1: probability of no valid order within the horizon
        churn_rank integer 1..: 1 is the riskiest; ties by customer_key
        churn_decile integer 1..10: 1 is the riskiest tenth
        risk_band string high|medium|low: what to make of the probability
        expected_days_to_order double? 0..: by the survival model; 3,650 stands for longer
        reason_1 string: the main reason, in words
        reason_2 string?: the second reason
        reason_3 string?: the third reason
        expected_margin_amount decimal: margin within the horizon if the customer is kept
        margin_at_risk_amount decimal: probability times expected margin
        is_margin_assumed boolean: the shop delivers no unit costs for this customer's orders
        model_name string: registered model
        model_version string: its version
        model_last_matured_date date: the last day whose labels the model has seen
        is_rescore boolean: that day is after the scored day, so this score is no forecast
    """),
    "snapshot_date",
)

CUSTOMER_SEGMENTS = Table(
    "customer_segments",
    1,
    ("snapshot_date", "customer_key"),
    _columns("""
        snapshot_date date: the day
        customer_key string: pseudonym of the customer
        lifecycle string prospect|active|dormant: never bought, in the population, neither
        recency_score integer? 1..5: 5 bought most recently
        frequency_score integer? 1..5: 5 buys most often
        monetary_score integer? 1..5: 5 spends most
        rfm_code integer? 111..555: the three scores as digits
        rfm_segment string?: one of the eleven standard segments
        rfm_version string?: the cut-points in force
        cluster_id integer? 0..: K-means segment, stable from day to day
        cluster_name string?: the same in words
        cluster_model_version string?: version of the K-means model
    """),
    "snapshot_date",
)


def _value_columns() -> str:
    """Return the columns of what is expected over each window, with the ends of its interval."""
    lines = []
    for days in (30, 90, 365):
        for stem, kind, what in (
            ("order_count", "double", "orders"),
            ("revenue_amount", "decimal", "revenue"),
            ("margin_amount", "decimal", "margin"),
        ):
            low = " 0.." if stem != "margin_amount" else ""
            after = f"of the next {days} days"
            lines += [
                f"expected_{stem}_{days}d {kind}?{low}: {what} {after}, as expected",
                f"{stem}_low_{days}d {kind}?{low}: low end of the 80 % interval",
                f"{stem}_high_{days}d {kind}?{low}: high end of it",
            ]
    return "\n".join(lines)


CUSTOMER_VALUE = Table(
    "customer_value",
    1,
    ("snapshot_date", "customer_key"),
    _columns(f"""
        snapshot_date date: the day
        customer_key string: pseudonym of a customer known that day
        lifecycle string prospect|active|dormant: never bought, in the population, neither
        purchase_probability_7d double? 0..1: probability of a valid order within 7 days
        purchase_probability_30d double? 0..1: probability of a valid order within 30 days
        main_category string?: the category most bought of in a year; null without any
        main_category_probability_7d double? 0..1: of an order within 7 days that holds it
        main_category_probability_30d double? 0..1: of an order within 30 days that holds it
        {_value_columns()}
        is_margin_assumed boolean: the shop delivers no unit costs for this customer's orders
        is_extrapolated_365d boolean: no year has passed by which that of a year could be tested
        value_recipe string: how orders are expected
        model_name string: registered model
        model_version string: its version
        model_last_matured_date date: the last day that the model has seen
        is_rescore boolean: that day is after this one, so this is no forecast
    """),
    "snapshot_date",
    may_be_empty=True,
)

AT_RISK_LIST = Table(
    "at_risk_list",
    1,
    ("snapshot_date", "customer_key"),
    _columns("""
        snapshot_date date: the day
        customer_key string: pseudonym of the customer
        priority integer 1..: 1 is the first to talk to
        churn_probability double 0..1: probability of no valid order within the horizon
        expected_margin_amount decimal: margin within the horizon if the customer is kept
        margin_at_risk_amount decimal: probability times expected margin; the order of the list
        main_reason string: why, in words
        suggested_play string service_call|reminder|coupon|personal_call: what to do
        contact_channel string: a channel with consent
        days_on_list integer 1..: consecutive published days, this one included
        is_new boolean: not on the list of the previous published day
        last_contact_date date?: the last contact known
        account_type string: consumer or business
        rfm_segment string?: one of the eleven standard segments
    """),
    "snapshot_date",
    may_be_empty=True,
)

CAMPAIGN_ASSIGNMENTS = Table(
    "campaign_assignments",
    1,
    ("campaign_id", "customer_key"),
    _columns("""
        assigned_date date: the day of randomisation
        campaign_id string: immutable id of the campaign
        customer_key string: pseudonym of the customer
        arm string: the arm drawn
        u_holdout double 0..1: hash of the global holdout
        u_layer double 0..1: hash of the layer
        u_coverage double 0..1: hash of the coverage
        u_arm double 0..1: hash of the arm
        weights_json string: the weights in force
        propensity double 0..1: probability of the arm that was drawn
        config_sha256 string: hash of what is fixed in the campaign's file
        snapshot_date date: the day whose scores and status were used
        campaign_version integer? 1..: version of the file; each is a randomisation of its own
        layer string?: campaigns of one layer share no customer
        is_control boolean?: the arm that gets nothing
        window_end_date date?: last day that counts for this customer
        account_type string?: stratum, as it was on the day of assignment
        value_tier string? high|middle|low|unknown: stratum, as it was on the day of assignment
        launch_power string? ok|underpowered|unknown: what was known of its power when it started
        segment string?: whose probabilities were in force, where the weights follow a policy
    """),
    "assigned_date",
    may_be_empty=True,
)

CAMPAIGN_COHORTS = Table(
    "campaign_cohorts",
    1,
    ("snapshot_date", "campaign_id", "customer_key"),
    _columns("""
        snapshot_date date: the day of randomisation
        campaign_id string: immutable id of the campaign
        customer_key string: pseudonym of a customer whom the campaign aimed at
        is_eligible boolean: passed every rule before randomisation
        exclusion_reason string?: the first rule that was not passed
        arm string?: the arm; null where none was drawn
        propensity double? 0..1: probability of that arm
    """),
    "snapshot_date",
    may_be_empty=True,
)

CAMPAIGN_DELIVERIES = Table(
    "campaign_deliveries",
    1,
    ("snapshot_date", "campaign_id", "customer_key", "channel", "sent_at"),
    _columns("""
        snapshot_date date: the day on which something became known of the message
        campaign_id string: immutable id of the campaign
        customer_key string: pseudonym of the customer
        channel string: channel of the message
        sent_at timestamp: when it was sent
        sent_date date: shop day of that
        arm string?: the arm of the customer; null for somebody who is not assigned
        is_control boolean?: the customer was to get nothing
        assigned_date date?: the day of randomisation
        is_bounced boolean: the tool could not deliver it
        is_opened boolean: opened by the end of the day, as far as known
        is_clicked boolean: clicked by then
        cost_amount decimal?: what sending it cost
        sent_arm string?: whose message it was, as the tool says; null if it does not
        is_other_arm boolean?: that is another arm than was drawn; null where it is not known
    """),
    "snapshot_date",
    may_be_empty=True,
)

CAMPAIGN_OUTCOMES = Table(
    "campaign_outcomes",
    2,
    ("snapshot_date", "campaign_id", "customer_key"),
    _columns("""
        snapshot_date date: the day on which the customer's window closed, or was settled
        campaign_id string: immutable id of the campaign
        customer_key string: pseudonym of a customer who was assigned
        arm string: the arm drawn
        assigned_date date: the day of randomisation; what counts comes after it
        window_end_date date: last day that counts
        settled_date date: the day up to which returns count
        is_sent boolean?: a message of the campaign was sent within the window
        is_delivered boolean?: one was, and did not bounce
        is_opened boolean?: one was opened
        is_clicked boolean?: one was clicked
        retained integer 0..1: 1 for a valid order within the window, 0 for none: churned
        order_count integer 0..: valid orders within the window
        revenue_amount decimal: of these orders, after discounts and cancellations
        discount_amount decimal: discounts on them
        margin_amount decimal: revenue less unit costs
        net_margin_amount decimal: the same less what came back so far, up to settled_date
        assumed_margin_amount decimal: the part of it that rests on the assumed margin rate
        cost_amount decimal: contacts, and the discounts on these orders
        profit_amount decimal: net margin less contacts
        first_order_date date?: day of the first of these orders
        is_sent_other_arm boolean?: a message of another arm was sent; null where none says whose
    """),
    "snapshot_date",
    may_be_empty=True,
)

CAMPAIGN_RESULTS = Table(
    "campaign_results",
    1,
    ("snapshot_date", "campaign_id", "arm", "metric", "look"),
    _columns("""
        snapshot_date date: the day of the reading
        campaign_id string: immutable id of the campaign
        arm string: the arm compared with the control
        metric string: what is measured, per assigned customer
        look integer 0..: number of the look, 0 before the first; the last planned one is the end
        look_date date: outcomes known at the end of this day are in
        is_final boolean: all windows have closed
        role string goal|guardrail|secondary: goal, guardrail or secondary
        control_arm string: the control
        assigned_count_arm integer 0..: customers assigned to the arm by the look
        assigned_count_control integer 0..: customers assigned to the control by the look
        customer_count_arm integer 0..: of those, with a closed window and an outcome
        customer_count_control integer 0..: the same of the control
        mean_arm double?: mean of the metric (or ratio of means) in the arm, unadjusted
        mean_control double?: the same of the control
        method string?: [ipw_][ratio_] then welch, proportion, delta, poststratified, cuped or \
poststratified_cuped
        theta double?: CUPED's coefficient, one over all arms
        variance_reduction double?: share of the squared standard error removed, measured
        winsorised_at double?: cap of the pooled arms; effect and test are of capped values
        effect double?: arm less control, in the metric's unit
        effect_low double?: lower end of its interval, valid for the look
        effect_high double?: upper end of its interval
        standard_error double?: of the effect
        p_value double? 0..1: two-sided; null before the end unless a boundary is crossed
        p_value_adjusted double? 0..1: Holm over goals and arms; Benjamini-Hochberg over secondary
        unadjusted_effect double?: Welch, without covariate and strata
        unadjusted_standard_error double?: of that
        relative_effect double?: effect over the control's mean
        relative_low double?: lower end of its interval
        relative_high double?: upper end of its interval
        relative_method string?: log_delta
        information_fraction double? 0..1: closed customers over planned ones
        boundary_z double?: z beyond which this look rejects
        z_statistic double?: normal quantile of the look's p-value, signed
        is_boundary_crossed boolean?: at this look or before
        minimum_effect double?: smallest effect worth having, from the plan
        minimum_detectable_effect double?: found with 80 % power at the measured error
        non_inferiority_margin double?: harm that a guardrail tolerates
        guardrail_verdict string? non_inferior|inferior|inconclusive: of a guardrail
        balance_p_value double? 0..1: the covariate before assignment, arm against control
        srm_p_eligible double? 0..1: sample ratio at the stage 'eligible'
        srm_p_assigned double? 0..1: sample ratio at the stage 'assigned'
        srm_p_sent double? 0..1: sample ratio at the stage 'sent'
        srm_p_delivered double? 0..1: sample ratio at the stage 'delivered'
        srm_p_measured double? 0..1: sample ratio at the stage 'measured'
        incremental_total double?: effect on uncapped values times customers of the arm
        incremental_low double?: lower end
        incremental_high double?: upper end
        prior_mean double?: of the effect, in the metric's unit
        prior_sd double?: of the effect
        prior_source string?: stated, or empirical_bayes above ten past campaigns
        shrunken_effect double?: posterior mean of the effect on uncapped values
        shrunken_low double?: lower end of its interval
        shrunken_high double?: upper end
        chance_to_win double? 0..1: posterior probability of an effect for the better
        cost_effect double?: what the arm spends more per customer: contacts and discounts
        cost_effect_low double?: lower end of its interval
        cost_effect_high double?: upper end
        relative_effect_before_cost double?: gain before cost over the control's mean
        relative_error_before_cost double?: its standard error; what later priors learn from
        roi double?: incremental profit per unit of incremental cost
        roi_low double?: lower end (Fieller)
        roi_high double?: upper end
        shrunken_roi double?: the same of the shrunken profit
        shrunken_roi_low double?: lower end
        shrunken_roi_high double?: upper end
        given_to_would_be_buyers double?: discounts to those who would have bought anyway
        assumed_margin_rate double? 0..1: share of the arms' margin that rests on a declared rate
        decision string? roll_out|stop|keep_testing: only for the metric that decides
        status string ok|underpowered|needs_review|window_open|invalid: whether to believe it
        reason string: why, in words
    """),
    "snapshot_date",
    may_be_empty=True,
)


@cache
def mart_tables() -> dict[str, Table]:
    """Return the published tables that dbt builds, by name."""
    return {
        table.name: table
        for table in (
            from_dbt("orders", ("snapshot_date", "order_id"), may_be_empty=True),
            from_dbt(
                "order_lines", ("snapshot_date", "order_id", "line_number"), may_be_empty=True
            ),
            from_dbt(
                "deliveries",
                ("snapshot_date", "campaign_id", "customer_key", "channel", "sent_at"),
                may_be_empty=True,
            ),
            from_dbt("customer_features", ("snapshot_date", "customer_key"), may_be_empty=True),
            from_dbt("customer_status", ("snapshot_date", "customer_key"), may_be_empty=True),
            from_dbt(
                "churn_labels", ("matured_date", "customer_key"), "matured_date", may_be_empty=True
            ),
            from_dbt(
                "churn_returns",
                ("snapshot_date", "customer_key", "returned_date"),
                may_be_empty=True,
            ),
        )
    }


LABEL_TREATMENTS = Table(
    "label_treatments",
    1,
    ("matured_date", "customer_key"),
    _columns("""
        matured_date date: the day on which the label matured
        snapshot_date date: the snapshot that it is of
        customer_key string: pseudonym of a customer whom a campaign enrolled in between
        campaign_id string: the first such campaign
        arm string: the arm drawn there; the control is an arm too
        propensity double 0..1: probability of that arm
    """),
    "matured_date",
    may_be_empty=True,
)

UPLIFT_SCORES = Table(
    "uplift_scores",
    1,
    ("snapshot_date", "campaign_id", "arm", "customer_key"),
    _columns("""
        snapshot_date date: the day
        customer_key string: pseudonym of a customer of the population
        campaign_id string: the finished campaign from which was learnt
        arm string: its arm, that is the offer
        metric string: what the effect is on, per customer and outcome window
        expected_effect double: outcome expected with the offer less that without, in its unit
        uplift_rank integer 1..: 1 gains most by this offer; ties by customer_key
        contact_cost_amount decimal 0..: declared cost of one contact of that arm
        learner string: which kind of learner
        model_version string: its registered version
        learned_until_date date: the last day whose orders the model has seen
        expected_profit_amount decimal?: profit expected with the offer less that without, costs off
    """),
    "snapshot_date",
    may_be_empty=True,
)

OFFER_POLICY = Table(
    "offer_policy",
    1,
    ("snapshot_date", "campaign_id", "segment", "arm"),
    _columns("""
        snapshot_date date: the day after which the policy may hold
        campaign_id string: a campaign between its start and its last window's end
        segment string: RFM segment at assignment; all stands for everybody
        arm string: an arm of the campaign, the control included
        metric string: the reward, per customer and outcome window
        customer_count integer 0..: customers of segment and arm whose window has closed
        effective_count double 0..: what they are worth after weighting by 1 / propensity
        posterior_mean double?: of the mean reward of the arm; null before there is evidence
        posterior_sd double? 0..: its standard deviation
        best_probability double? 0..1: probability that no arm is better
        floor double 0..0.5: least probability of any arm
        propensity double 0..1: probability of the arm for customers not assigned yet, in force
        reason string: on what the probability rests
        candidate_propensity double? 0..1: of the policy that was learnt; null for advice only
        is_promoted boolean?: that policy took the place of the one in force
        verdict string?: why, or why not; null for a campaign whose weights are its own
    """),
    "snapshot_date",
    may_be_empty=True,
)

# Insert-only: a partition is merged, never replaced.
LEDGERS = frozenset({CAMPAIGN_ASSIGNMENTS.name})

MADE_HERE = (
    CHURN_SCORES,
    CUSTOMER_SEGMENTS,
    CUSTOMER_VALUE,
    AT_RISK_LIST,
    CAMPAIGN_ASSIGNMENTS,
    CAMPAIGN_COHORTS,
    CAMPAIGN_DELIVERIES,
    CAMPAIGN_OUTCOMES,
    CAMPAIGN_RESULTS,
    LABEL_TREATMENTS,
    UPLIFT_SCORES,
    OFFER_POLICY,
)


def all_tables() -> dict[str, Table]:
    """Return every published table, by name."""
    return {**mart_tables(), **{table.name: table for table in MADE_HERE}}
