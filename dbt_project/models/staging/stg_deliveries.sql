with deliveries as (
    {{ versions(source('raw', 'deliveries')) }}
)

select
    campaign_id,
    customer_key,
    channel,
    sent_at,
    status,
    occurred_date as sent_date,
    opened_at,
    {{ shop_date('opened_at') }} as opened_date,
    clicked_at,
    {{ shop_date('clicked_at') }} as clicked_date,
    cost_amount,
    arm,
    known_date,
    superseded_date
from deliveries
