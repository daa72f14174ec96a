with events as (
    {{ versions(source('raw', 'events'), key=['event_id']) }}
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
