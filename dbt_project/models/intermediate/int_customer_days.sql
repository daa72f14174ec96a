-- What each customer did in the shop on a day, as it became known: events are summed here once, so
-- that no window ever scans them again. Only days that a window of some requested day reaches are
-- here.
with bounds as (
    {{ bounds() }}
)

select
    events.customer_key,
    events.occurred_date,
    {{ known_together('events') }},
    cast({{ count_if("events.event_type not in ('email_open', 'email_click')") }} as integer) as event_count,
    cast({{ count_if("events.event_type = 'view'") }} as integer) as view_count,
    cast({{ count_if("events.event_type = 'add_to_cart'") }} as integer) as cart_count,
    cast({{ count_if("events.event_type = 'email_open'") }} as integer) as email_open_count,
    cast({{ count_if("events.event_type = 'email_click'") }} as integer) as email_click_count
from {{ ref('stg_events') }} as events
cross join bounds
where
    events.occurred_date > {{ add_days(first_date(), '-' ~ longest_window(['engagement'])) }}
    and {{ known_within('events', 'bounds') }}
group by events.customer_key, events.occurred_date{{ known_apart('events') }}
