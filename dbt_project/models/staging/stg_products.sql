with products as (
    {{ versions(source('raw', 'products'), key=['product_id']) }}
)

select
    product_id,
    category,
    unit_cost,
    known_date,
    superseded_date
from products
