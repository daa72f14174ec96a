-- Browsing and e-mail engagement of each customer over windows that end with each requested day.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

recent_days as (
    select
        spine.snapshot_date,
        days.customer_key,
        days.event_count,
        days.view_count,
        days.cart_count,
        days.email_open_count,
        days.email_click_count,
        days.day_count,
        days.session_count,
        {{ days_between('days.occurred_date', 'spine.snapshot_date') }} as age_days
    from spine
    inner join {{ ref('int_customer_days') }} as days
        on
            {{ known_on('days', 'spine.snapshot_date') }}
            and days.occurred_date > {{ add_days('spine.snapshot_date', -90) }}
)

select
    snapshot_date,
    customer_key,
    cast({{ sum_if('event_count', 'age_days < 7') }} as bigint) as event_count_7d,
    cast({{ sum_if('event_count', 'age_days < 30') }} as bigint) as event_count_30d,
    cast({{ sum_if('event_count', 'age_days < 60') }} as bigint) as event_count_60d,
    cast(sum(event_count) as bigint) as event_count_90d,
    cast({{ sum_if('day_count', 'age_days < 30') }} as bigint) as event_day_count_30d,
    cast(sum(day_count) as bigint) as event_day_count_90d,
    cast({{ sum_if('view_count', 'age_days < 30') }} as bigint) as view_count_30d,
    cast({{ sum_if('cart_count', 'age_days < 30') }} as bigint) as cart_count_30d,
    cast({{ sum_if('session_count', 'age_days < 30') }} as bigint) as session_count_30d,
    cast(sum(email_open_count) as bigint) as email_open_count_90d,
    cast(sum(email_click_count) as bigint) as email_click_count_90d
from recent_days
group by snapshot_date, customer_key
