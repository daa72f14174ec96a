with consents as (
    {{ versions(source('raw', 'consents')) }}
)

select
    customer_key,
    channel,
    replace(lower(trim(purpose)), ' ', '_') as purpose,
    status,
    changed_at,
    occurred_date as changed_date,
    {{ shop_date('expires_at') }} as expires_date,
    known_date,
    superseded_date
from consents
