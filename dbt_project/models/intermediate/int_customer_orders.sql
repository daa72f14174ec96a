-- Orders of each customer over windows that end with each requested day, as known at its end, and
-- how they were delivered. One row per customer with an order in the last 365 days, cancelled ones
-- included.
{%- set is_same_weeks_last_year = 'age_days >= 365 - ' ~ var('season_window_days') %}
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

orders as (
    select
        spine.snapshot_date,
        orders.customer_key,
        orders.ordered_date,
        {{ days_between('orders.ordered_date', 'spine.snapshot_date') }} as age_days,
        case
            when orders.delivered_date <= spine.snapshot_date
                then {{ days_between('orders.delivered_date', 'spine.snapshot_date') }}
        end as delivered_age_days,
        {{ days_between('orders.ordered_date', 'orders.delivered_date') }} as delivery_days,
        not orders.is_wholly_cancelled as is_valid,
        orders.revenue_amount,
        orders.margin_amount,
        orders.net_amount,
        orders.item_count,
        orders.discount_amount,
        orders.cancelled_amount
    from spine
    inner join {{ ref('int_orders') }} as orders
        on
            {{ known_on('orders', 'spine.snapshot_date') }}
            and orders.ordered_date > {{ add_days('spine.snapshot_date', -365) }}
),

-- Amounts of orders that were cancelled whole are zero, so sums of money need not leave them out.
customers as (
    select
        snapshot_date,
        customer_key,
        {{ count_if('is_valid and age_days < 30') }} as order_count_30d,
        {{ count_if('is_valid and age_days < 90') }} as order_count_90d,
        {{ count_if('is_valid and age_days < 180') }} as order_count_180d,
        {{ count_if('is_valid') }} as order_count_365d,
        count(distinct case when is_valid then ordered_date end) as order_day_count_365d,
        {{ count_if('is_valid and discount_amount > 0') }} as discounted_order_count_365d,
        {{ count_if('not is_valid') }} as cancelled_order_count_365d,
        -- The weeks that followed this day a year ago: days in (D - 365, D - 365 + season].
        {{ count_if('is_valid and ' ~ is_same_weeks_last_year) }} as order_count_same_weeks_last_year,
        {{ sum_if('revenue_amount', is_same_weeks_last_year) }} as revenue_amount_same_weeks_last_year,
        {{ sum_if('revenue_amount', 'age_days < 30') }} as revenue_amount_30d,
        {{ sum_if('revenue_amount', 'age_days < 90') }} as revenue_amount_90d,
        {{ sum_if('revenue_amount', 'age_days < 180') }} as revenue_amount_180d,
        sum(revenue_amount) as revenue_amount_365d,
        coalesce(sum(margin_amount), 0) as known_margin_amount_365d,
        {{ count_if('margin_amount is null') }} as unknown_margin_order_count_365d,
        sum(net_amount) as net_amount_365d,
        {{ sum_if('item_count', 'is_valid') }} as item_count_365d,
        sum(discount_amount) as discount_amount_365d,
        sum(cancelled_amount) as cancelled_amount_365d,
        max(case when is_valid then revenue_amount end) as max_order_amount_365d,
        {{ count_if('is_valid and delivered_age_days < 180') }} as delivered_count_180d,
        {{ sum_if('delivery_days', 'is_valid and delivered_age_days < 180') }} as delivery_sum_days_180d,
        {{ count_if('is_valid and delivered_age_days < 180 and delivery_days > 7') }} as late_delivery_count_180d,
        {{ count_if('is_valid and delivered_age_days is null and age_days > 14 and age_days < 180') }} as overdue_order_count
    from orders
    group by snapshot_date, customer_key
),

-- A shop that has told of no delivery in a year has no undelivered orders: nothing is known of them.
shops as (
    select
        snapshot_date,
        coalesce(max(case when delivered_age_days is not null then 1 end) = 1, false) as has_deliveries
    from orders
    group by snapshot_date
)

select
    customers.*,
    case when shops.has_deliveries then customers.overdue_order_count else 0 end as undelivered_order_count
from customers
inner join shops
    on customers.snapshot_date = shops.snapshot_date
