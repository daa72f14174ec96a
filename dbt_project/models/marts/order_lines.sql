-- Order lines of which something became known on each requested day, in their state at its end.
-- The last row of a line up to any day is its state as of that day.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
)

select
    spine.snapshot_date,
    lines.order_id,
    lines.line_number,
    lines.customer_key,
    lines.ordered_at,
    lines.ordered_date,
    lines.product_id,
    lines.category,
    lines.quantity,
    lines.cancelled_quantity,
    lines.cancelled_at,
    lines.unit_price as unit_price_amount,
    lines.gross_amount,
    lines.net_amount,
    {{ amount('lines.net_amount - lines.cost_amount') }} as net_margin_amount,
    lines.cost_amount is not null as is_margin_known
from spine
inner join {{ ref('int_order_lines') }} as lines
    on spine.snapshot_date = lines.known_date
