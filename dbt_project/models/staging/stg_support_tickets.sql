with support_tickets as (
    {{ versions(source('raw', 'support_tickets')) }}
)

select
    ticket_id,
    customer_key,
    occurred_date as opened_date,
    {{ shop_date('closed_at') }} as closed_date,
    csat,
    known_date,
    superseded_date
from support_tickets
