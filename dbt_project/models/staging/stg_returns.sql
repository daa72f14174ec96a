with returns as (
    {{ versions(source('raw', 'returns')) }}
)

select
    return_id,
    order_id,
    line_number,
    quantity,
    amount,
    returned_at,
    occurred_date as returned_date,
    known_date,
    superseded_date
from returns
