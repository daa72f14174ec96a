with reviews as (
    {{ versions(source('raw', 'reviews')) }}
)

select
    review_id,
    customer_key,
    rating,
    created_at,
    occurred_date as created_date,
    known_date,
    superseded_date
from reviews
