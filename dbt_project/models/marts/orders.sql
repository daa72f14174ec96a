-- Orders of which something became known on each requested day, in their state at its end. The
-- last row of an order up to any day is its state as of that day.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

changes as (
    select
        order_id,
        known_date as changed_date
    from {{ ref('int_orders') }}
    union
    select
        order_id,
        delivered_date as changed_date
    from {{ ref('int_orders') }}
    where delivered_date >= known_date and delivered_date < superseded_date
    union
    select
        order_id,
        known_date as changed_date
    from {{ ref('int_returns') }}
),

changed as (
    select
        spine.snapshot_date,
        changes.order_id
    from spine
    inner join changes
        on spine.snapshot_date = changes.changed_date
),

returned as (
    select
        changed.snapshot_date,
        changed.order_id,
        sum(returns.return_amount) as returned_amount
    from changed
    inner join {{ ref('int_returns') }} as returns
        on
            changed.order_id = returns.order_id
            and {{ known_on('returns', 'changed.snapshot_date') }}
    group by changed.snapshot_date, changed.order_id
)

select
    changed.snapshot_date,
    orders.order_id,
    orders.customer_key,
    orders.ordered_at,
    orders.ordered_date,
    orders.channel,
    case when orders.delivered_date <= changed.snapshot_date then orders.delivered_at end as delivered_at,
    orders.cancelled_at,
    orders.is_wholly_cancelled,
    cast(orders.line_count as bigint) as line_count,
    orders.item_count,
    orders.gross_amount,
    orders.cancelled_amount,
    orders.discount_amount,
    orders.shipping_amount,
    orders.revenue_amount,
    orders.margin_amount,
    orders.is_margin_known,
    {{ amount('coalesce(returned.returned_amount, 0)') }} as returned_amount
from changed
inner join {{ ref('int_orders') }} as orders
    on
        changed.order_id = orders.order_id
        and {{ known_on('orders', 'changed.snapshot_date') }}
left join returned
    on
        changed.snapshot_date = returned.snapshot_date
        and changed.order_id = returned.order_id
