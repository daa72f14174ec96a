with coupons as (
    {{ versions(source('raw', 'coupons')) }}
)

select
    code,
    customer_key,
    occurred_date as issued_date,
    {{ shop_date('expires_at') }} as expires_date,
    {{ shop_date('redeemed_at') }} as redeemed_date,
    known_date,
    superseded_date
from coupons
