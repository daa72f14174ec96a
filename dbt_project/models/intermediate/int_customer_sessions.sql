-- The sessions in which each customer did something in the shop, by day, as they became known. Only
-- days that a window of some requested day reaches are here.
with bounds as (
    {{ bounds() }}
)

select
    events.customer_key,
    events.occurred_date,
    events.session_id,
    {{ known_together('events') }}
from {{ ref('stg_events') }} as events
cross join bounds
where
    events.occurred_date > {{ add_days(first_date(), '-' ~ longest_window(['sessions'])) }}
    and {{ known_within('events', 'bounds') }}
    and events.session_id is not null
    and events.event_type not in ('email_open', 'email_click')
group by events.customer_key, events.occurred_date, events.session_id{{ known_apart('events') }}
