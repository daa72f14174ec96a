-- Browsing and e-mail engagement of each customer over windows that end with each requested day, as
-- known at its end.
with days as (
    select * from {{ ref('int_customer_days') }}
),

{{ windowed('engagement', 'days', summed=true) }},

sessions as (
    select * from {{ ref('int_customer_sessions') }}
),

{{ windowed('sessions', 'sessions', summed=true) }}

select
    engagement.*,
    coalesce(sessions.session_count_30d, 0) as session_count_30d
from engagement_measured as engagement
left join sessions_measured as sessions
    on engagement.snapshot_date = sessions.snapshot_date and engagement.customer_key = sessions.customer_key
