-- Tickets, reviews and coupons of each customer over windows that end with each requested day, as
-- known at its end. One row per customer who has any of them.
with tickets as (
    select
        customer_key,
        opened_date,
        closed_date,
        cast(csat as decimal(18, 4)) as csat,
        known_date,
        superseded_date
    from {{ ref('stg_support_tickets') }}
),

{{ windowed('tickets', 'tickets') }},

{{ last_dates('tickets', ['opened_date']) }},

reviews as (
    select
        customer_key,
        created_date,
        rating,
        known_date,
        superseded_date
    from {{ ref('stg_reviews') }}
),

{{ windowed('reviews', 'reviews') }},

{{ last_dates('reviews', ['created_date']) }},

coupons as (
    select
        customer_key,
        issued_date,
        redeemed_date,
        least(
            coalesce(redeemed_date, {{ end_of_time() }}), coalesce(expires_date, {{ end_of_time() }})
        ) as closing_date,
        known_date,
        superseded_date
    from {{ ref('stg_coupons') }}
),

{{ windowed('coupons', 'coupons') }},

-- The last rating does not add up: it is looked up once per customer and change of the reviews.
rated as (
    select
        customer_key,
        created_at,
        review_id,
        rating,
        known_date as enter_date,
        superseded_date as exit_date
    from {{ ref('stg_reviews') }}
),

{{ periods('rated') }},

ranked as (
    select
        rated.customer_key,
        rated.from_date,
        rated.until_date,
        rated.rating as last_rating,
        row_number() over (
            partition by rated.customer_key, rated.from_date
            order by rated.created_at desc, rated.review_id desc
        ) as recency
    from rated_periods as rated
),

last_ratings as (
    select
        spine.snapshot_date,
        ranked.customer_key,
        ranked.last_rating
    from {{ ref('int_snapshot_dates') }} as spine
    inner join ranked
        on ranked.from_date <= spine.snapshot_date and ranked.until_date > spine.snapshot_date
    where ranked.recency = 1
),

customers as (
    {%- for relation in [
        'tickets_measured', 'reviews_measured', 'coupons_measured', 'last_ratings',
        'tickets_last_dates', 'reviews_last_dates',
    ] %}
    select
        snapshot_date,
        customer_key
    from {{ relation }}
    {% if not loop.last %}union{% endif %}
    {%- endfor %}
)

select
    customers.snapshot_date,
    customers.customer_key
    {%- for group in ['tickets', 'reviews', 'coupons'] %}
    {%- for name in measure_columns(group) %},
    coalesce({{ group }}.{{ name }}, 0) as {{ name }}
    {%- endfor %}
    {%- endfor %},
    {{ ratio('tickets.csat_sum_365d', 'tickets.csat_count_365d') }} as csat_mean_365d,
    {{ ratio('reviews.rating_sum_365d', 'reviews.review_count_365d') }} as rating_mean_365d,
    last_ratings.last_rating,
    last_tickets.opened_date as last_ticket_date,
    last_reviews.created_date as last_review_date
from customers
{%- for relation, name in [
    ('tickets_measured', 'tickets'), ('reviews_measured', 'reviews'), ('coupons_measured', 'coupons'),
    ('last_ratings', 'last_ratings'), ('tickets_last_dates', 'last_tickets'), ('reviews_last_dates', 'last_reviews'),
] %}
left join {{ relation }} as {{ name }}
    on customers.snapshot_date = {{ name }}.snapshot_date and customers.customer_key = {{ name }}.customer_key
{%- endfor %}
