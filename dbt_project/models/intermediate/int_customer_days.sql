-- What each customer did in the shop on one day, as it became known: events are summed here once,
-- so that no window ever scans them again. A customer has one row per day, more only where some
-- events of that day arrived later than others or were delivered again. Only days that a window of
-- some requested day reaches are here.
with bounds as (
    select
        {{ add_days('min(snapshot_date)', -90) }} as first_date,
        max(snapshot_date) as last_date
    from {{ ref('int_snapshot_dates') }}
),

sessions as (
    select
        events.customer_key,
        events.occurred_date,
        events.session_id,
        events.known_date,
        events.superseded_date,
        {{ count_if("events.event_type not in ('email_open', 'email_click')") }} as event_count,
        {{ count_if("events.event_type = 'view'") }} as view_count,
        {{ count_if("events.event_type = 'add_to_cart'") }} as cart_count,
        {{ count_if("events.event_type = 'email_open'") }} as email_open_count,
        {{ count_if("events.event_type = 'email_click'") }} as email_click_count
    from {{ ref('stg_events') }} as events
    cross join bounds
    where events.occurred_date > bounds.first_date and events.known_date <= bounds.last_date
    group by
        events.customer_key, events.occurred_date, events.session_id, events.known_date, events.superseded_date
),

days as (
    select
        customer_key,
        occurred_date,
        min(known_date) as known_date,
        max(known_date) as last_known_date,
        min(superseded_date) as superseded_date,
        sum(event_count) as event_count,
        sum(view_count) as view_count,
        sum(cart_count) as cart_count,
        sum(email_open_count) as email_open_count,
        sum(email_click_count) as email_click_count,
        case when sum(event_count) > 0 then 1 else 0 end as day_count,
        count(case when event_count > 0 then session_id end) as session_count
    from sessions
    group by customer_key, occurred_date
),

-- Nearly every day became known at once and for good, and is done. The others are taken apart by
-- the days on which their parts were known.
parts as (
    select sessions.*
    from sessions
    inner join days
        on sessions.customer_key = days.customer_key and sessions.occurred_date = days.occurred_date
    where days.known_date < days.last_known_date or days.superseded_date < {{ end_of_time() }}
),

-- Of such a day, the day itself and each of its sessions count while any of their events is known:
-- the periods in which a running count of these is above zero.
sightings as (
    select
        customer_key,
        occurred_date,
        'day' as counted,
        '' as session_id,
        known_date,
        superseded_date
    from parts
    where event_count > 0
    union all
    select
        customer_key,
        occurred_date,
        'session' as counted,
        session_id,
        known_date,
        superseded_date
    from parts
    where event_count > 0 and session_id is not null
),

changes as (
    select
        customer_key,
        occurred_date,
        counted,
        session_id,
        known_date as change_date,
        1 as change
    from sightings
    union all
    select
        customer_key,
        occurred_date,
        counted,
        session_id,
        superseded_date as change_date,
        -1 as change
    from sightings
    where superseded_date < {{ end_of_time() }}
),

daily_changes as (
    select
        customer_key,
        occurred_date,
        counted,
        session_id,
        change_date,
        sum(change) as change
    from changes
    group by customer_key, occurred_date, counted, session_id, change_date
),

periods as (
    select
        customer_key,
        occurred_date,
        counted,
        change_date as known_date,
        lead(change_date, 1, {{ end_of_time() }}) over (
            partition by customer_key, occurred_date, counted, session_id
            order by change_date
        ) as superseded_date,
        sum(change) over (
            partition by customer_key, occurred_date, counted, session_id
            order by change_date
            rows between unbounded preceding and current row
        ) as known_count
    from daily_changes
),

contributions as (
    select
        customer_key,
        occurred_date,
        known_date,
        superseded_date,
        event_count,
        view_count,
        cart_count,
        email_open_count,
        email_click_count,
        0 as day_count,
        0 as session_count
    from parts
    union all
    select
        customer_key,
        occurred_date,
        known_date,
        superseded_date,
        0 as event_count,
        0 as view_count,
        0 as cart_count,
        0 as email_open_count,
        0 as email_click_count,
        case when counted = 'day' then 1 else 0 end as day_count,
        case when counted = 'session' then 1 else 0 end as session_count
    from periods
    where known_count > 0
    union all
    select
        customer_key,
        occurred_date,
        known_date,
        superseded_date,
        event_count,
        view_count,
        cart_count,
        email_open_count,
        email_click_count,
        day_count,
        session_count
    from days
    where known_date = last_known_date and superseded_date = {{ end_of_time() }}
)

select
    customer_key,
    occurred_date,
    known_date,
    superseded_date,
    cast(sum(event_count) as integer) as event_count,
    cast(sum(view_count) as integer) as view_count,
    cast(sum(cart_count) as integer) as cart_count,
    cast(sum(email_open_count) as integer) as email_open_count,
    cast(sum(email_click_count) as integer) as email_click_count,
    cast(sum(day_count) as integer) as day_count,
    cast(sum(session_count) as integer) as session_count
from contributions
group by customer_key, occurred_date, known_date, superseded_date
