-- What each customer had bought, as known on the days [known_date, superseded_date): one row per
-- customer from each day on which something about the customer's orders became known to the next.
-- Only periods that hold a requested day, or a day whose labels mature on one, are here: a customer
-- has a few of them in a year, while the days asked for may be many.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

as_of_days as (
    select snapshot_date as as_of_date from spine
    union
    select {{ add_days('snapshot_date', '-' ~ horizon_days()) }} as as_of_date from spine
),

changes as (
    select
        customer_key,
        known_date
    from {{ ref('int_orders') }}
    union
    select
        customer_key,
        superseded_date as known_date
    from {{ ref('int_orders') }}
    where superseded_date < {{ end_of_time() }}
),

periods as (
    select
        customer_key,
        known_date,
        lead(known_date, 1, {{ end_of_time() }}) over (
            partition by customer_key
            order by known_date
        ) as superseded_date
    from changes
),

requested_periods as (
    select
        customer_key,
        known_date,
        superseded_date
    from periods
    where
        exists (
            select 1 from as_of_days
            where {{ known_on('periods', 'as_of_days.as_of_date') }}
        )
),

order_days as (
    select
        periods.customer_key,
        periods.known_date,
        periods.superseded_date,
        orders.ordered_date,
        count(*) as order_count,
        sum(orders.revenue_amount) as revenue_amount
    from requested_periods as periods
    inner join {{ ref('int_orders') }} as orders
        on
            periods.customer_key = orders.customer_key
            and {{ known_on('orders', 'periods.known_date') }}
    where not orders.is_wholly_cancelled
    group by periods.customer_key, periods.known_date, periods.superseded_date, orders.ordered_date
)

select
    customer_key,
    known_date,
    superseded_date,
    ordered_date,
    order_count,
    revenue_amount,
    -- Whole days since the day of the order before; null on the first.
    {{ days_between(
        'lag(ordered_date) over (partition by customer_key, known_date order by ordered_date)',
        'ordered_date'
    ) }} as gap_days
from order_days
