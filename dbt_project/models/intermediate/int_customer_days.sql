-- What each customer did in the shop in one session of a day, as it became known: events are summed
-- here once, so that no window ever scans them again. Only days that a window of some requested day
-- reaches are here.
select
    events.customer_key,
    events.occurred_date,
    events.session_id,
    events.known_date,
    events.superseded_date,
    cast({{ count_if("events.event_type not in ('email_open', 'email_click')") }} as integer) as event_count,
    cast({{ count_if("events.event_type = 'view'") }} as integer) as view_count,
    cast({{ count_if("events.event_type = 'add_to_cart'") }} as integer) as cart_count,
    cast({{ count_if("events.event_type = 'email_open'") }} as integer) as email_open_count,
    cast({{ count_if("events.event_type = 'email_click'") }} as integer) as email_click_count
from {{ ref('stg_events') }} as events
cross join ({{ bounds() }}) as bounds
where
    events.occurred_date > {{ add_days('bounds.first_date', '-' ~ longest_window(['engagement', 'sessions'])) }}
    and events.known_date <= bounds.last_date
group by
    events.customer_key, events.occurred_date, events.session_id, events.known_date, events.superseded_date
