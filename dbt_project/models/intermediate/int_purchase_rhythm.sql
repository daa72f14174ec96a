-- When each customer bought, as known at the end of each requested day, and at the end of the day
-- whose labels mature on it: first and last valid order, and the gaps between days with orders.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

as_of_days as (
    select snapshot_date as as_of_date from spine
    union
    select {{ add_days('snapshot_date', '-' ~ horizon_days()) }} as as_of_date from spine
),

histories as (
    select
        customer_key,
        known_date,
        superseded_date,
        min(ordered_date) as first_order_date,
        max(ordered_date) as last_order_date,
        cast(sum(order_count) as bigint) as order_count_lifetime,
        sum(revenue_amount) as revenue_amount_lifetime,
        cast(count(gap_days) as bigint) as gap_count,
        cast(coalesce(sum(gap_days), 0) as bigint) as gap_sum_days,
        cast(coalesce(sum(gap_days * gap_days), 0) as bigint) as gap_square_sum,
        {{ quantile('gap_days', 0.5) }} as gap_median_days,
        {{ quantile('gap_days', 0.9) }} as gap_p90_days
    from {{ ref('int_purchase_histories') }}
    group by customer_key, known_date, superseded_date
),

-- The shop's rhythm: every gap that every customer has shown by then.
shops as (
    select
        as_of_days.as_of_date,
        {{ ratio('sum(gaps.gap_days)', 'count(gaps.gap_days)') }} as gap_mean_days,
        {{ quantile('gaps.gap_days', 0.9) }} as gap_p90_days
    from as_of_days
    left join {{ ref('int_purchase_histories') }} as gaps
        on {{ known_on('gaps', 'as_of_days.as_of_date') }}
    group by as_of_days.as_of_date
)

select
    shops.as_of_date,
    histories.customer_key,
    histories.first_order_date,
    histories.last_order_date,
    {{ days_between('histories.first_order_date', 'shops.as_of_date') }} as days_since_first_order,
    {{ days_between('histories.last_order_date', 'shops.as_of_date') }} as days_since_last_order,
    {{ days_between('histories.last_order_date', 'shops.as_of_date') }} < {{ active_window_days() }} as is_in_population,
    histories.order_count_lifetime,
    histories.revenue_amount_lifetime,
    {{ ratio('histories.gap_sum_days', 'histories.gap_count') }} as gap_mean_days,
    histories.gap_median_days,
    histories.gap_p90_days,
    -- The sample's standard deviation from exact whole sums: sqrt((n*sum(x^2) - sum(x)^2) / (n*(n-1))).
    sqrt({{ ratio(
        'histories.gap_count * histories.gap_square_sum - histories.gap_sum_days * histories.gap_sum_days',
        'histories.gap_count * (histories.gap_count - 1)'
    ) }}) as gap_stddev_days,
    -- Shrunk towards the shop's: the customer's own gaps, and a few of the shop's besides.
    (histories.gap_sum_days + {{ var('rhythm_prior_gap_count') }} * shops.gap_mean_days)
    / (histories.gap_count + {{ var('rhythm_prior_gap_count') }}) as shrunk_gap_mean_days,
    (
        histories.gap_count * coalesce(histories.gap_p90_days, 0)
        + {{ var('rhythm_prior_gap_count') }} * shops.gap_p90_days
    ) / (histories.gap_count + {{ var('rhythm_prior_gap_count') }}) as shrunk_gap_p90_days
from shops
inner join histories
    on {{ known_on('histories', 'shops.as_of_date') }}
