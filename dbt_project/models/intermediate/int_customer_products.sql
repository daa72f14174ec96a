-- Breadth of what each customer bought in the 365 days up to each requested day, as known at its
-- end.
with spine as (
    {{ snapshot_spine() }}
),

-- One row per product: distinct counts are counts of rows from here on. A product that has moved
-- counts in one category.
products as (
    select
        spine.snapshot_date,
        lines.customer_key,
        lines.product_id,
        max(lines.category) as category,
        max(case when lines.is_in_catalogue then 1 else 0 end) as is_in_catalogue,
        sum(lines.net_quantity) as item_count
    from spine
    inner join {{ ref('int_order_lines') }} as lines
        on
            {{ known_on('lines', 'spine.snapshot_date') }}
            and lines.ordered_date > {{ add_days('spine.snapshot_date', -365) }}
    where lines.net_quantity > 0
    group by spine.snapshot_date, lines.customer_key, lines.product_id
),

categories as (
    select
        snapshot_date,
        customer_key,
        category,
        count(*) as product_count,
        sum(is_in_catalogue) as catalogue_product_count,
        sum(item_count) as item_count
    from products
    group by snapshot_date, customer_key, category
),

first_catalogue as (
    select min(known_date) as known_date
    from {{ ref('stg_products') }}
)

select
    categories.snapshot_date,
    categories.customer_key,
    -- What is not in the catalogue is a charge, such as postage, and no product; unless the shop
    -- has delivered no catalogue yet.
    cast(case
        when max(first_catalogue.known_date) <= categories.snapshot_date then sum(categories.catalogue_product_count)
        else sum(categories.product_count)
    end as bigint) as product_count_365d,
    cast(count(categories.category) as bigint) as category_count_365d,
    {{ ratio(
        'max(case when categories.category is not null then categories.item_count end)',
        'sum(case when categories.category is not null then categories.item_count end)'
    ) }} as main_category_share_365d
from categories
cross join first_catalogue
group by categories.snapshot_date, categories.customer_key
