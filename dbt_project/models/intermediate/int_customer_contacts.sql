-- Campaign messages that each customer received, over windows that end with each requested day, as
-- known at its end.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

deliveries as (
    select
        spine.snapshot_date,
        deliveries.customer_key,
        deliveries.sent_date,
        deliveries.channel = 'email' as is_email,
        {{ days_between('deliveries.sent_date', 'spine.snapshot_date') }} as age_days,
        {{ days_between('deliveries.opened_date', 'spine.snapshot_date') }} as opened_age_days,
        {{ days_between('deliveries.clicked_date', 'spine.snapshot_date') }} as clicked_age_days
    from spine
    inner join {{ ref('stg_deliveries') }} as deliveries
        on {{ known_on('deliveries', 'spine.snapshot_date') }}
)

select
    snapshot_date,
    customer_key,
    max(sent_date) as last_contact_date,
    {{ count_if('age_days < 7') }} as contact_count_7d,
    {{ count_if('age_days < 30') }} as contact_count_30d,
    {{ count_if('age_days < 90') }} as contact_count_90d,
    {{ count_if('is_email and age_days < 90') }} as email_count_90d,
    -- An outcome that lies ahead of the day has a negative age: it is not known yet.
    {{ count_if('is_email and opened_age_days >= 0 and opened_age_days < 90') }} as email_open_count_90d,
    {{ count_if('is_email and clicked_age_days >= 0 and clicked_age_days < 90') }} as email_click_count_90d
from deliveries
group by snapshot_date, customer_key
