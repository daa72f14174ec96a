with orders as (
    {{ versions(source('raw', 'orders')) }}
)

select
    order_id,
    customer_key,
    ordered_at,
    occurred_date as ordered_date,
    delivered_at,
    {{ shop_date('delivered_at') }} as delivered_date,
    cancelled_at,
    {{ shop_date('cancelled_at') }} as cancelled_date,
    coalesce(discount_amount, 0) as discount_amount,
    coalesce(shipping_amount, 0) as shipping_amount,
    channel,
    known_date,
    superseded_date
from orders
