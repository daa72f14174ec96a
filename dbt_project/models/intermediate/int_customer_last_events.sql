-- The last day on which each customer did anything in the shop, put something into the cart and
-- opened an e-mail, as known at the end of each requested day.
with happened as (
    select
        customer_key,
        occurred_date,
        known_date,
        superseded_date,
        {{ count_if("event_type not in ('email_open', 'email_click')") }} as event_count,
        {{ count_if("event_type = 'add_to_cart'") }} as cart_count,
        {{ count_if("event_type = 'email_open'") }} as email_open_count
    from {{ ref('stg_events') }}
    group by customer_key, occurred_date, known_date, superseded_date
),

events as (
    select * from happened
    where event_count > 0
),

carts as (
    select * from happened
    where cart_count > 0
),

-- A shop may tell of opens as events, as what became of a delivery, or both.
email_opens as (
    select
        customer_key,
        occurred_date,
        known_date,
        superseded_date
    from happened
    where email_open_count > 0
    union all
    select
        customer_key,
        opened_date as occurred_date,
        greatest(known_date, opened_date) as known_date,
        superseded_date
    from {{ ref('stg_deliveries') }}
    where channel = 'email' and opened_date is not null and opened_date < superseded_date
),

{{ last_dates('events', 'occurred_date') }},

{{ last_dates('carts', 'occurred_date') }},

{{ last_dates('email_opens', 'occurred_date') }}

-- What is in the cart is an event as well.
select
    coalesce(events.snapshot_date, email_opens.snapshot_date) as snapshot_date,
    coalesce(events.customer_key, email_opens.customer_key) as customer_key,
    events.last_date as last_event_date,
    carts.last_date as last_cart_date,
    email_opens.last_date as last_email_open_date
from events_last_dates as events
full outer join email_opens_last_dates as email_opens
    on events.snapshot_date = email_opens.snapshot_date and events.customer_key = email_opens.customer_key
left join carts_last_dates as carts
    on events.snapshot_date = carts.snapshot_date and events.customer_key = carts.customer_key
