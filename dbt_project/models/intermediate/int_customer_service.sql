-- Tickets, reviews and coupons of each customer over windows that end with each requested day, as
-- known at its end. One row per customer who has any of them.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

tickets as (
    select
        spine.snapshot_date,
        tickets.customer_key,
        {{ days_between('tickets.opened_date', 'spine.snapshot_date') }} as age_days,
        -- Closing, and the satisfaction told at it, are not known before the day of closing.
        case
            when tickets.closed_date <= spine.snapshot_date
                then {{ days_between('tickets.closed_date', 'spine.snapshot_date') }}
        end as closed_age_days,
        cast(tickets.csat as decimal(18, 4)) as csat
    from spine
    inner join {{ ref('stg_support_tickets') }} as tickets
        on {{ known_on('tickets', 'spine.snapshot_date') }}
),

ticket_counts as (
    select
        snapshot_date,
        customer_key,
        {{ count_if('age_days < 30') }} as ticket_count_30d,
        {{ count_if('age_days < 90') }} as ticket_count_90d,
        {{ count_if('age_days < 365') }} as ticket_count_365d,
        -- What nobody closed in half a year is forgotten, or the shop does not tell of closing.
        {{ count_if('closed_age_days is null and age_days < 180') }} as open_ticket_count,
        {{ ratio(sum_if('csat', 'closed_age_days < 365'), 'count(case when closed_age_days < 365 then csat end)') }}
            as csat_mean_365d
    from tickets
    group by snapshot_date, customer_key
),

reviews as (
    select
        spine.snapshot_date,
        reviews.customer_key,
        reviews.rating,
        {{ days_between('reviews.created_date', 'spine.snapshot_date') }} as age_days,
        row_number() over (
            partition by spine.snapshot_date, reviews.customer_key
            order by reviews.created_at desc, reviews.review_id desc
        ) as recency
    from spine
    inner join {{ ref('stg_reviews') }} as reviews
        on {{ known_on('reviews', 'spine.snapshot_date') }}
),

review_counts as (
    select
        snapshot_date,
        customer_key,
        {{ count_if('age_days < 365') }} as review_count_365d,
        {{ ratio(sum_if('rating', 'age_days < 365'), count_if('age_days < 365')) }} as rating_mean_365d,
        max(case when recency = 1 then rating end) as last_rating,
        {{ count_if('rating <= 2 and age_days < 90') }} as low_rating_count_90d,
        {{ count_if('rating <= 2 and age_days < 180') }} as low_rating_count_180d
    from reviews
    group by snapshot_date, customer_key
),

coupon_counts as (
    select
        spine.snapshot_date,
        coupons.customer_key,
        {{ count_if(
            'coupons.redeemed_date <= spine.snapshot_date and '
            ~ days_between('coupons.redeemed_date', 'spine.snapshot_date') ~ ' < 365'
        ) }} as coupon_redeemed_count_365d,
        -- Valid until its expiry: still open at the end of the day if that lies on a later one.
        {{ count_if(
            'coalesce(coupons.redeemed_date > spine.snapshot_date, true) '
            ~ 'and coalesce(coupons.expires_date > spine.snapshot_date, true)'
        ) }} as open_coupon_count
    from spine
    inner join {{ ref('stg_coupons') }} as coupons
        on {{ known_on('coupons', 'spine.snapshot_date') }}
    group by spine.snapshot_date, coupons.customer_key
),

customers as (
    select
        snapshot_date,
        customer_key
    from ticket_counts
    union
    select
        snapshot_date,
        customer_key
    from review_counts
    union
    select
        snapshot_date,
        customer_key
    from coupon_counts
)

select
    customers.snapshot_date,
    customers.customer_key,
    coalesce(ticket_counts.ticket_count_30d, 0) as ticket_count_30d,
    coalesce(ticket_counts.ticket_count_90d, 0) as ticket_count_90d,
    coalesce(ticket_counts.ticket_count_365d, 0) as ticket_count_365d,
    coalesce(ticket_counts.open_ticket_count, 0) as open_ticket_count,
    ticket_counts.csat_mean_365d,
    coalesce(review_counts.review_count_365d, 0) as review_count_365d,
    review_counts.rating_mean_365d,
    review_counts.last_rating,
    coalesce(review_counts.low_rating_count_90d, 0) as low_rating_count_90d,
    coalesce(review_counts.low_rating_count_180d, 0) as low_rating_count_180d,
    coalesce(coupon_counts.coupon_redeemed_count_365d, 0) as coupon_redeemed_count_365d,
    coalesce(coupon_counts.open_coupon_count, 0) as open_coupon_count
from customers
left join ticket_counts
    on
        customers.snapshot_date = ticket_counts.snapshot_date
        and customers.customer_key = ticket_counts.customer_key
left join review_counts
    on
        customers.snapshot_date = review_counts.snapshot_date
        and customers.customer_key = review_counts.customer_key
left join coupon_counts
    on
        customers.snapshot_date = coupon_counts.snapshot_date
        and customers.customer_key = coupon_counts.customer_key
