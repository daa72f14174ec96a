-- Breadth of what each customer bought in the 365 days up to each requested day, as known at its
-- end.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

first_catalogue as (
    select min(known_date) as known_date
    from {{ ref('stg_products') }}
),

lines as (
    select
        spine.snapshot_date,
        lines.customer_key,
        lines.product_id,
        lines.category,
        lines.net_quantity,
        -- What is not in the catalogue is a charge, such as postage, and no product; unless the
        -- shop has delivered no catalogue yet.
        lines.is_in_catalogue or coalesce(first_catalogue.known_date > spine.snapshot_date, true) as is_product
    from spine
    cross join first_catalogue
    inner join {{ ref('int_order_lines') }} as lines
        on
            {{ known_on('lines', 'spine.snapshot_date') }}
            and lines.ordered_date > {{ add_days('spine.snapshot_date', -365) }}
    where lines.net_quantity > 0
),

products as (
    select
        snapshot_date,
        customer_key,
        count(distinct case when is_product then product_id end) as product_count
    from lines
    group by snapshot_date, customer_key
),

categories as (
    select
        snapshot_date,
        customer_key,
        category,
        sum(net_quantity) as item_count
    from lines
    where category is not null
    group by snapshot_date, customer_key, category
),

breadths as (
    select
        snapshot_date,
        customer_key,
        count(*) as category_count,
        {{ ratio('max(item_count)', 'sum(item_count)') }} as main_category_share
    from categories
    group by snapshot_date, customer_key
)

select
    products.snapshot_date,
    products.customer_key,
    products.product_count as product_count_365d,
    coalesce(breadths.category_count, 0) as category_count_365d,
    breadths.main_category_share as main_category_share_365d
from products
left join breadths
    on products.snapshot_date = breadths.snapshot_date and products.customer_key = breadths.customer_key
