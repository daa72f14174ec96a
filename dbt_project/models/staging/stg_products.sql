with products as (
    {{ versions(source('raw', 'products')) }}
)

select
    product_id,
    category,
    unit_cost,
    known_date,
    superseded_date
from products
