-- What each customer did in the shop on one day, as it became known: events are summed here once,
-- so that no window ever scans them again. A customer has one row per day, more only where some
-- events of that day arrived later than others or were delivered again.
with sessions as (
    select
        customer_key,
        occurred_date,
        session_id,
        known_date,
        superseded_date,
        {{ count_if("event_type not in ('email_open', 'email_click')") }} as event_count,
        {{ count_if("event_type = 'view'") }} as view_count,
        {{ count_if("event_type = 'add_to_cart'") }} as cart_count,
        {{ count_if("event_type = 'email_open'") }} as email_open_count,
        {{ count_if("event_type = 'email_click'") }} as email_click_count
    from {{ ref('stg_events') }}
    group by customer_key, occurred_date, session_id, known_date, superseded_date
),

-- A day and a session count once, from the day on which the first of their events was known.
first_known_days as (
    select
        customer_key,
        occurred_date,
        min(known_date) as known_date
    from sessions
    where event_count > 0
    group by customer_key, occurred_date
),

first_known_sessions as (
    select
        customer_key,
        occurred_date,
        session_id,
        min(known_date) as known_date
    from sessions
    where event_count > 0 and session_id is not null
    group by customer_key, occurred_date, session_id
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
    from sessions
    union all
    select
        customer_key,
        occurred_date,
        known_date,
        {{ end_of_time() }} as superseded_date,
        0 as event_count,
        0 as view_count,
        0 as cart_count,
        0 as email_open_count,
        0 as email_click_count,
        1 as day_count,
        0 as session_count
    from first_known_days
    union all
    select
        customer_key,
        occurred_date,
        known_date,
        {{ end_of_time() }} as superseded_date,
        0 as event_count,
        0 as view_count,
        0 as cart_count,
        0 as email_open_count,
        0 as email_click_count,
        0 as day_count,
        1 as session_count
    from first_known_sessions
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
