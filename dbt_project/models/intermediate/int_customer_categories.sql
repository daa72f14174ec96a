-- The categories of which each customer bought in the last days up to each requested day, as known
-- at its end: what a prediction of the main category is judged by, a week and a month later.
with bounds as (
    select
        min(snapshot_date) as first_date,
        max(snapshot_date) as last_date
    from {{ ref('int_snapshot_dates') }}
),

lines as (
    select
        lines.customer_key,
        -- The sign that stands between two categories stands in none.
        replace(lines.category, '|', '/') as category,
        lines.ordered_date,
        lines.known_date,
        lines.superseded_date
    from {{ ref('int_order_lines') }} as lines
    inner join bounds
        on
            lines.ordered_date > {{ add_days('bounds.first_date', -30) }}
            and lines.ordered_date <= bounds.last_date
    where lines.category is not null and lines.net_quantity > 0
),

categories as (
    select
        spine.snapshot_date,
        lines.customer_key,
        lines.category,
        max(lines.ordered_date) as last_order_date
    from {{ ref('int_snapshot_dates') }} as spine
    inner join lines
        on
            {{ known_on('lines', 'spine.snapshot_date') }}
            and lines.ordered_date <= spine.snapshot_date
            and lines.ordered_date > {{ add_days('spine.snapshot_date', -30) }}
    group by spine.snapshot_date, lines.customer_key, lines.category
)

select
    snapshot_date,
    customer_key,
    {{ joined_texts('case when last_order_date > ' ~ add_days('snapshot_date', -7) ~ ' then category end') }}
        as categories_7d,
    {{ joined_texts('category') }} as categories_30d
from categories
group by snapshot_date, customer_key
