-- Orders of which something became known on each requested day, in their state at its end. The
-- last row of an order up to any day is its state as of that day.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
)

select
    spine.snapshot_date,
    orders.order_id,
    orders.customer_key,
    orders.ordered_at,
    orders.ordered_date,
    orders.channel,
    case when orders.delivered_date <= spine.snapshot_date then orders.delivered_at end as delivered_at,
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
    orders.is_margin_known
from spine
inner join {{ ref('int_orders') }} as orders
    on
        {{ known_on('orders', 'spine.snapshot_date') }}
        and (orders.known_date = spine.snapshot_date or orders.delivered_date = spine.snapshot_date)
