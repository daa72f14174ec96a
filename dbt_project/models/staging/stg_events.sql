with events as (
    {{ versions(source('raw', 'events')) }}
)

select
    event_id,
    customer_key,
    event_type,
    occurred_date,
    session_id,
    known_date,
    superseded_date
from events
