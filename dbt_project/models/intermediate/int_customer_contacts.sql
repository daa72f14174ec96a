-- Campaign messages that each customer received and answered with an order, over windows that end
-- with each requested day, as known at its end.
with deliveries as (
    select
        customer_key,
        campaign_id,
        channel,
        sent_at,
        sent_date,
        opened_date,
        clicked_date,
        channel = 'email' as is_email,
        known_date,
        superseded_date
    from {{ ref('stg_deliveries') }}
),

{{ windowed('contacts', 'deliveries') }},

{{ last_dates('deliveries', ['sent_date']) }},

-- A contact is answered while it and a valid order on one of the seven days from its own on are
-- both the truth as known.
responses as (
    select
        deliveries.customer_key,
        deliveries.campaign_id,
        deliveries.channel,
        deliveries.sent_at,
        deliveries.sent_date,
        greatest(deliveries.known_date, orders.known_date) as known_date,
        least(deliveries.superseded_date, orders.superseded_date) as superseded_date
    from deliveries
    inner join {{ ref('int_orders') }} as orders
        on
            deliveries.customer_key = orders.customer_key
            and deliveries.sent_date <= orders.ordered_date
            and {{ add_days('deliveries.sent_date', 6) }} >= orders.ordered_date
            and deliveries.known_date < orders.superseded_date
            and orders.known_date < deliveries.superseded_date
    where not orders.is_wholly_cancelled
),

{{ windowed('responses', 'responses') }}

select
    last_days.snapshot_date,
    last_days.customer_key,
    last_days.sent_date as last_contact_date
    {%- for group in ['contacts', 'responses'] %}
    {%- for name in measure_columns(group) %},
    coalesce({{ group }}.{{ name }}, 0) as {{ name }}
    {%- endfor %}
    {%- endfor %}
from deliveries_last_dates as last_days
left join contacts_measured as contacts
    on last_days.snapshot_date = contacts.snapshot_date and last_days.customer_key = contacts.customer_key
left join responses_measured as responses
    on last_days.snapshot_date = responses.snapshot_date and last_days.customer_key = responses.customer_key
