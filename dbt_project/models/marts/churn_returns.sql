-- Who came back after a silence longer than the horizon: returns of which something became known on
-- each requested day, in their state at its end. The last row of a return up to any day is its state
-- as of that day.
-- Such a silence is exactly one that a label called churned: its first label is that of the day of
-- the last order before it, which matured one horizon later and before the return. So labels need
-- not be read, and none is rewritten.
{% set horizon = horizon_days() | int %}
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

-- A return comes, changes or goes only with an order of the same customer.
changed as (
    select
        spine.snapshot_date,
        orders.customer_key
    from spine
    inner join {{ ref('int_orders') }} as orders
        on spine.snapshot_date = orders.known_date
    union
    select
        spine.snapshot_date,
        orders.customer_key
    from spine
    inner join {{ ref('int_orders') }} as orders
        on spine.snapshot_date = orders.superseded_date
),

-- Of these customers the knowledge of the day, and that of the day before, which it is told against.
as_of_days as (
    select
        snapshot_date,
        customer_key,
        snapshot_date as as_of_date
    from changed
    union all
    select
        snapshot_date,
        customer_key,
        {{ add_days('snapshot_date', -1) }} as as_of_date
    from changed
),

order_days as (
    select
        as_of_days.snapshot_date,
        as_of_days.customer_key,
        as_of_days.as_of_date,
        orders.ordered_date,
        sum(orders.revenue_amount) as revenue_amount
    from as_of_days
    inner join {{ ref('int_orders') }} as orders
        on
            as_of_days.customer_key = orders.customer_key
            and {{ known_on('orders', 'as_of_days.as_of_date') }}
    where not orders.is_wholly_cancelled
    group by as_of_days.snapshot_date, as_of_days.customer_key, as_of_days.as_of_date, orders.ordered_date
),

silences as (
    select
        snapshot_date,
        customer_key,
        as_of_date,
        ordered_date as returned_date,
        revenue_amount,
        lag(ordered_date) over (
            partition by snapshot_date, customer_key, as_of_date
            order by ordered_date
        ) as silent_since_date
    from order_days
),

known_returns as (
    select *
    from silences
    where {{ days_between('silent_since_date', 'returned_date') }} > {{ horizon }}
),

-- Either side may be missing: a return is new, or no longer one.
changes as (
    select
        snapshot_date,
        customer_key,
        returned_date,
        max(case when as_of_date = snapshot_date then silent_since_date end) as silent_since_date,
        max(case when as_of_date < snapshot_date then silent_since_date end) as earlier_silent_since_date,
        max(case when as_of_date = snapshot_date then revenue_amount end) as revenue_amount,
        max(case when as_of_date < snapshot_date then revenue_amount end) as earlier_revenue_amount
    from known_returns
    group by snapshot_date, customer_key, returned_date
)

select
    snapshot_date,
    customer_key,
    coalesce(silent_since_date, earlier_silent_since_date) as silent_since_date,
    {{ add_days('coalesce(silent_since_date, earlier_silent_since_date)', horizon) }} as first_matured_date,
    returned_date,
    cast({{ days_between('coalesce(silent_since_date, earlier_silent_since_date)', 'returned_date') }} as bigint)
        as days_silent,
    {{ amount('coalesce(revenue_amount, 0)') }} as revenue_amount,
    silent_since_date is null as is_withdrawn
from changes
where
    silent_since_date is distinct from earlier_silent_since_date
    or revenue_amount is distinct from earlier_revenue_amount
