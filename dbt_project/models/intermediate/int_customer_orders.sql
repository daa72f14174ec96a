-- Orders of each customer over windows that end with each requested day, as known at its end, and
-- how they were delivered. One row per customer with an order in the last 365 days, cancelled ones
-- included.
with orders as (
    select
        customer_key,
        ordered_date,
        delivered_date,
        {{ days_between('ordered_date', 'delivered_date') }} as delivery_days,
        {{ add_days('ordered_date', 365) }} as year_end_date,
        not is_wholly_cancelled as is_valid,
        revenue_amount,
        margin_amount,
        net_amount,
        item_count,
        discount_amount,
        cancelled_amount,
        known_date,
        superseded_date
    from {{ ref('int_orders') }}
),

{{ windowed('orders', 'orders') }},

-- The largest does not add up: it is looked up once per customer and change of the orders in sight.
in_sight as (
    select
        customer_key,
        revenue_amount,
        known_date as enter_date,
        least(superseded_date, year_end_date) as exit_date
    from orders
    where is_valid
),

{{ periods('in_sight') }},

largest as (
    select
        customer_key,
        from_date,
        until_date,
        max(revenue_amount) as max_order_amount_365d
    from in_sight_periods
    group by customer_key, from_date, until_date
),

-- A shop that has told of no delivery in a year has no undelivered orders: nothing is known of them.
shops as (
    select
        snapshot_date,
        sum(told_delivery_count_365d) > 0 as has_deliveries
    from orders_measured
    group by snapshot_date
)

select
    orders.*,
    largest.max_order_amount_365d,
    case when shops.has_deliveries then orders.overdue_order_count_180d else 0 end as undelivered_order_count
from orders_measured as orders
inner join shops
    on orders.snapshot_date = shops.snapshot_date
left join largest
    on
        orders.customer_key = largest.customer_key
        and largest.from_date <= orders.snapshot_date
        and largest.until_date > orders.snapshot_date
