with order_items as (
    {{ versions(source('raw', 'order_items')) }}
)

select
    order_id,
    line_number,
    product_id,
    quantity,
    unit_price,
    -- A cancellation without a quantity takes the whole line, and never more than was ordered.
    greatest(least(
        coalesce(cancelled_quantity, case when cancelled_at is null then 0 else quantity end),
        quantity
    ), 0) as cancelled_quantity,
    cancelled_at,
    {{ shop_date('cancelled_at') }} as cancelled_date,
    known_date,
    superseded_date
from order_items
