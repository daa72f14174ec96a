-- When each customer bought, as known at the end of each requested day, and at the end of the day
-- whose labels mature on it: first and last valid order, and the gaps between days with orders.
with spine as (
    {{ snapshot_spine() }}
),

as_of_days as (
    select snapshot_date as as_of_date from spine
    union
    select {{ add_days('snapshot_date', '-' ~ horizon_days()) }} as as_of_date from spine
),

order_days as (
    select distinct
        as_of_days.as_of_date,
        orders.customer_key,
        orders.ordered_date
    from as_of_days
    inner join {{ ref('int_orders') }} as orders
        on {{ known_on('orders', 'as_of_days.as_of_date') }}
    where not orders.is_wholly_cancelled
),

gaps as (
    select
        as_of_date,
        customer_key,
        ordered_date,
        {{ days_between(
            'lag(ordered_date) over (partition by as_of_date, customer_key order by ordered_date)',
            'ordered_date'
        ) }} as gap_days
    from order_days
),

customers as (
    select
        as_of_date,
        customer_key,
        min(ordered_date) as first_order_date,
        max(ordered_date) as last_order_date,
        {{ count_if(days_between('ordered_date', 'as_of_date') ~ ' < 365') }} as order_day_count_365d,
        cast(count(gap_days) as bigint) as gap_count,
        cast(coalesce(sum(gap_days), 0) as bigint) as gap_sum_days,
        cast(coalesce(sum(gap_days * gap_days), 0) as bigint) as gap_square_sum,
        {{ quantile('gap_days', 0.5) }} as gap_median_days,
        {{ quantile('gap_days', 0.9) }} as gap_p90_days
    from gaps
    group by as_of_date, customer_key
),

-- The shop's rhythm: every gap that every customer has shown by then.
shops as (
    select
        as_of_date,
        {{ ratio('sum(gap_days)', 'count(gap_days)') }} as shop_gap_mean_days,
        {{ quantile('gap_days', 0.9) }} as shop_gap_p90_days
    from gaps
    group by as_of_date
)

select
    customers.as_of_date,
    customers.customer_key,
    customers.first_order_date,
    customers.last_order_date,
    {{ days_between('customers.first_order_date', 'customers.as_of_date') }} as days_since_first_order,
    {{ days_between('customers.last_order_date', 'customers.as_of_date') }} as days_since_last_order,
    {{ days_between('customers.last_order_date', 'customers.as_of_date') }}
    < {{ active_window_days() }} as is_in_population,
    customers.order_day_count_365d,
    customers.gap_count,
    {{ ratio('customers.gap_sum_days', 'customers.gap_count') }} as gap_mean_days,
    customers.gap_median_days,
    customers.gap_p90_days,
    -- The sample's standard deviation from exact whole sums: sqrt((n*sum(x^2) - sum(x)^2) / (n*(n-1))).
    sqrt({{ ratio(
        'customers.gap_count * customers.gap_square_sum - customers.gap_sum_days * customers.gap_sum_days',
        'customers.gap_count * (customers.gap_count - 1)'
    ) }}) as gap_stddev_days,
    -- Shrunk towards the shop's: the customer's own gaps, and a few of the shop's besides.
    (customers.gap_sum_days + {{ var('rhythm_prior_gap_count') }} * shops.shop_gap_mean_days)
    / (customers.gap_count + {{ var('rhythm_prior_gap_count') }}) as shrunk_gap_mean_days,
    (
        customers.gap_count * coalesce(customers.gap_p90_days, 0)
        + {{ var('rhythm_prior_gap_count') }} * shops.shop_gap_p90_days
    ) / (customers.gap_count + {{ var('rhythm_prior_gap_count') }}) as shrunk_gap_p90_days
from customers
inner join shops
    on customers.as_of_date = shops.as_of_date
