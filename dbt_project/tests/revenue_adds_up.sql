-- Money in equals money out on every requested day: what the lines are worth, less the discounts on
-- their orders, is what the orders are worth, and that is what all customers together have spent.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

lines as (
    select
        spine.snapshot_date,
        sum(lines.net_amount) as amount
    from spine
    inner join {{ ref('int_order_lines') }} as lines
        on {{ known_on('lines', 'spine.snapshot_date') }}
    group by spine.snapshot_date
),

orders as (
    select
        spine.snapshot_date,
        sum(orders.revenue_amount) as revenue_amount,
        sum(orders.discount_amount) as discount_amount
    from spine
    inner join {{ ref('int_orders') }} as orders
        on {{ known_on('orders', 'spine.snapshot_date') }}
    group by spine.snapshot_date
),

customers as (
    select
        snapshot_date,
        sum(revenue_amount_lifetime) as revenue_amount
    from {{ ref('customer_status') }}
    group by snapshot_date
)

select
    orders.snapshot_date,
    lines.amount as line_amount,
    orders.discount_amount,
    orders.revenue_amount,
    customers.revenue_amount as customer_revenue_amount
from orders
left join lines
    on orders.snapshot_date = lines.snapshot_date
left join customers
    on orders.snapshot_date = customers.snapshot_date
where
    coalesce(lines.amount, 0) - orders.discount_amount <> orders.revenue_amount
    or coalesce(customers.revenue_amount <> orders.revenue_amount, true)
