-- Orders, deliveries and returns of each customer over windows that end with each requested day,
-- as known at its end. One row per customer who had ordered by then, cancelled orders included.
{%- set season = var('season_window_days') %}
with spine as (
    {{ snapshot_spine() }}
),

orders as (
    select
        spine.snapshot_date,
        orders.customer_key,
        {{ days_between('orders.ordered_date', 'spine.snapshot_date') }} as age_days,
        {{ days_between('orders.delivered_date', 'spine.snapshot_date') }} as delivered_age_days,
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
        on {{ known_on('orders', 'spine.snapshot_date') }}
),

-- Amounts of orders that were cancelled whole are zero, so sums of money need not leave them out.
customers as (
    select
        snapshot_date,
        customer_key,
        {{ count_if('is_valid') }} as order_count_lifetime,
        {{ count_if('is_valid and age_days < 30') }} as order_count_30d,
        {{ count_if('is_valid and age_days < 90') }} as order_count_90d,
        {{ count_if('is_valid and age_days < 180') }} as order_count_180d,
        {{ count_if('is_valid and age_days < 365') }} as order_count_365d,
        {{ count_if('is_valid and age_days < 365 and discount_amount > 0') }} as discounted_order_count_365d,
        {{ count_if('not is_valid and age_days < 365') }} as cancelled_order_count_365d,
        -- The weeks that followed this day a year ago: days in (D - 365, D - 365 + season].
        {{ count_if('is_valid and age_days < 365 and age_days >= ' ~ (365 - season)) }} as order_count_same_weeks_last_year,
        {{ sum_if('revenue_amount', 'age_days < 365 and age_days >= ' ~ (365 - season)) }} as revenue_amount_same_weeks_last_year,
        sum(revenue_amount) as revenue_amount_lifetime,
        {{ sum_if('revenue_amount', 'age_days < 30') }} as revenue_amount_30d,
        {{ sum_if('revenue_amount', 'age_days < 90') }} as revenue_amount_90d,
        {{ sum_if('revenue_amount', 'age_days < 180') }} as revenue_amount_180d,
        {{ sum_if('revenue_amount', 'age_days < 365') }} as revenue_amount_365d,
        {{ sum_if('margin_amount', 'age_days < 365') }} as known_margin_amount_365d,
        {{ count_if('age_days < 365 and margin_amount is null') }} as unknown_margin_order_count_365d,
        {{ sum_if('net_amount', 'age_days < 365') }} as net_amount_365d,
        {{ sum_if('item_count', 'is_valid and age_days < 365') }} as item_count_365d,
        {{ sum_if('discount_amount', 'age_days < 365') }} as discount_amount_365d,
        {{ sum_if('cancelled_amount', 'age_days < 365') }} as cancelled_amount_365d,
        max(case when is_valid and age_days < 365 then revenue_amount end) as max_order_amount_365d,
        {{ count_if('is_valid and delivered_age_days < 180') }} as delivered_count_180d,
        {{ sum_if('delivery_days', 'is_valid and delivered_age_days < 180') }} as delivery_sum_days_180d,
        {{ count_if('is_valid and delivered_age_days < 180 and delivery_days > 7') }} as late_delivery_count_180d,
        {{ count_if('is_valid and delivered_age_days is null and age_days > 14 and age_days < 180') }} as overdue_order_count
    from orders
    group by snapshot_date, customer_key
),

-- A shop that has never told of a delivery has no undelivered orders: nothing is known of them.
shops as (
    select
        snapshot_date,
        coalesce(max(case when delivered_age_days is not null then 1 end) = 1, false) as has_deliveries
    from orders
    group by snapshot_date
),

returns as (
    select
        spine.snapshot_date,
        returns.customer_key,
        {{ count_if(days_between('returns.returned_date', 'spine.snapshot_date') ~ ' < 30') }} as return_count_30d,
        {{ count_if(days_between('returns.returned_date', 'spine.snapshot_date') ~ ' < 365') }} as return_count_365d,
        {{ sum_if('returns.return_amount', days_between('returns.returned_date', 'spine.snapshot_date') ~ ' < 365') }} as return_amount_365d,
        count(distinct case
            when
                not returns.is_wholly_cancelled
                and {{ days_between('returns.ordered_date', 'spine.snapshot_date') }} < 365
                then returns.order_id
        end) as returned_order_count_365d
    from spine
    inner join {{ ref('int_returns') }} as returns
        on {{ known_on('returns', 'spine.snapshot_date') }}
    group by spine.snapshot_date, returns.customer_key
)

select
    customers.*,
    case when shops.has_deliveries then customers.overdue_order_count else 0 end as undelivered_order_count,
    coalesce(returns.return_count_30d, 0) as return_count_30d,
    coalesce(returns.return_count_365d, 0) as return_count_365d,
    coalesce(returns.return_amount_365d, 0) as return_amount_365d,
    coalesce(returns.returned_order_count_365d, 0) as returned_order_count_365d
from customers
inner join shops
    on customers.snapshot_date = shops.snapshot_date
left join returns
    on
        customers.snapshot_date = returns.snapshot_date
        and customers.customer_key = returns.customer_key
