-- Browsing and e-mail engagement of each customer over windows that end with each requested day, as
-- known at its end.
with sessions as (
    select * from {{ ref('int_customer_days') }}
    where session_id is not null and event_count > 0
),

days as (
    select
        customer_key,
        occurred_date,
        known_date,
        superseded_date,
        cast(sum(event_count) as integer) as event_count,
        cast(sum(view_count) as integer) as view_count,
        cast(sum(cart_count) as integer) as cart_count,
        cast(sum(email_open_count) as integer) as email_open_count,
        cast(sum(email_click_count) as integer) as email_click_count
    from {{ ref('int_customer_days') }}
    group by customer_key, occurred_date, known_date, superseded_date
),

{{ windowed('engagement', 'days') }},

{{ windowed('sessions', 'sessions') }}

select
    engagement.*,
    coalesce(sessions.session_count_30d, 0) as session_count_30d
from engagement_measured as engagement
left join sessions_measured as sessions
    on engagement.snapshot_date = sessions.snapshot_date and engagement.customer_key = sessions.customer_key
