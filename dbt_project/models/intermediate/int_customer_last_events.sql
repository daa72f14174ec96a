-- The last day on which each customer did anything in the shop, as known at the end of each
-- requested day.
with events as (
    select distinct
        customer_key,
        occurred_date,
        known_date,
        superseded_date
    from {{ ref('stg_events') }}
    where event_type not in ('email_open', 'email_click')
),

{{ last_dates('events', 'occurred_date') }}

select
    snapshot_date,
    customer_key,
    last_date as last_event_date
from events_last_dates
