-- The last day on which each customer did anything in the shop, put something into the cart and
-- opened an e-mail, as known at the end of each requested day.
with happened as (
    select
        customer_key,
        case when event_type not in ('email_open', 'email_click') then occurred_date end as event_date,
        case when event_type = 'add_to_cart' then occurred_date end as cart_date,
        case when event_type = 'email_open' then occurred_date end as email_open_date,
        known_date,
        superseded_date
    from {{ ref('stg_events') }}
    where event_type != 'email_click'
    union all
    -- A shop may tell of opens as events, as what became of a delivery, or both.
    select
        customer_key,
        null as event_date,
        null as cart_date,
        opened_date as email_open_date,
        greatest(known_date, opened_date) as known_date,
        superseded_date
    from {{ ref('stg_deliveries') }}
    where channel = 'email' and opened_date is not null and opened_date < superseded_date
),

{{ last_dates('happened', ['event_date', 'cart_date', 'email_open_date']) }}

select
    snapshot_date,
    customer_key,
    event_date as last_event_date,
    cart_date as last_cart_date,
    email_open_date as last_email_open_date
from happened_last_dates
