-- Browsing and e-mail engagement of each customer over windows that end with each requested day, as
-- known at its end.
with events as (
    select
        customer_key,
        event_type,
        event_type not in ('email_open', 'email_click') as is_browsing,
        occurred_date,
        session_id,
        known_date,
        superseded_date
    from {{ ref('stg_events') }}
),

{{ windowed('engagement', 'events', dense=true) }}

select * from engagement_measured
