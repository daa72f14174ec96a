-- The last day on which each customer did anything in the shop, as known at the end of each
-- requested day. Events are first gathered by the requested day on which they come into sight, which
-- leaves at most one row per customer and requested day to look back over. The few that a later
-- version superseded come and go, and are looked up day by day.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

events as (
    select
        customer_key,
        occurred_date,
        known_date,
        superseded_date
    from {{ ref('stg_events') }}
    where event_type not in ('email_open', 'email_click')
),

steps as (
    select
        snapshot_date,
        lag(snapshot_date, 1, {{ beginning_of_time() }}) over (order by snapshot_date) as previous_date
    from spine
),

sightings as (
    select
        steps.snapshot_date,
        events.customer_key,
        max(events.occurred_date) as occurred_date
    from steps
    inner join events
        on events.known_date <= steps.snapshot_date and events.known_date > steps.previous_date
    where events.superseded_date = {{ end_of_time() }}
    group by steps.snapshot_date, events.customer_key
),

periods as (
    select
        customer_key,
        snapshot_date as from_date,
        max(occurred_date) over (
            partition by customer_key
            order by snapshot_date
            rows between unbounded preceding and current row
        ) as last_event_date,
        lead(snapshot_date, 1, {{ end_of_time() }}) over (
            partition by customer_key
            order by snapshot_date
        ) as until_date
    from sightings
),

candidates as (
    select
        spine.snapshot_date,
        periods.customer_key,
        periods.last_event_date
    from spine
    inner join periods
        on periods.from_date <= spine.snapshot_date and periods.until_date > spine.snapshot_date
    union all
    select
        spine.snapshot_date,
        events.customer_key,
        events.occurred_date as last_event_date
    from spine
    inner join events
        on {{ known_on('events', 'spine.snapshot_date') }}
    where events.superseded_date < {{ end_of_time() }}
)

select
    snapshot_date,
    customer_key,
    max(last_event_date) as last_event_date
from candidates
group by snapshot_date, customer_key
