-- Campaign messages that each customer received, over windows that end with each requested day, as
-- known at its end.
with deliveries as (
    select
        customer_key,
        sent_date,
        opened_date,
        clicked_date,
        channel = 'email' as is_email,
        known_date,
        superseded_date
    from {{ ref('stg_deliveries') }}
),

{{ windowed('contacts', 'deliveries') }},

{{ last_dates('deliveries', 'sent_date') }}

select
    last_days.snapshot_date,
    last_days.customer_key,
    last_days.last_date as last_contact_date
    {%- for name in measure_columns('contacts') %},
    coalesce(contacts.{{ name }}, 0) as {{ name }}
    {%- endfor %}
from deliveries_last_dates as last_days
left join contacts_measured as contacts
    on last_days.snapshot_date = contacts.snapshot_date and last_days.customer_key = contacts.customer_key
