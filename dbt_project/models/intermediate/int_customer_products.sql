-- Breadth of what each customer bought in the 365 days up to each requested day, as known at its
-- end.
with first_catalogue as (
    select min(known_date) as known_date
    from {{ ref('stg_products') }}
),

lines as (
    select
        lines.customer_key,
        lines.product_id,
        lines.category,
        lines.net_quantity,
        lines.ordered_date,
        -- What is not in the catalogue is a charge, such as postage, and no product; unless the
        -- shop has delivered no catalogue yet.
        case when not lines.is_in_catalogue then first_catalogue.known_date end as product_until_date,
        lines.known_date,
        lines.superseded_date
    from {{ ref('int_order_lines') }} as lines
    cross join first_catalogue
    where lines.net_quantity > 0
),

{{ windowed('products', 'lines') }},

-- Shares of categories do not add up: they are worked out once per customer and change.
in_sight as (
    select
        customer_key,
        category,
        net_quantity,
        known_date as enter_date,
        least(superseded_date, {{ add_days('ordered_date', 365) }}) as exit_date
    from lines
    where category is not null
),

{{ periods('in_sight') }},

categories as (
    select
        customer_key,
        from_date,
        until_date,
        category,
        sum(net_quantity) as item_count
    from in_sight_periods
    group by customer_key, from_date, until_date, category
),

shares as (
    select
        customer_key,
        from_date,
        until_date,
        category,
        {{ ratio('item_count', 'sum(item_count) over (partition by customer_key, from_date)') }} as share,
        row_number() over (
            partition by customer_key, from_date
            order by item_count desc, category asc
        ) as place
    from categories
),

mixes as (
    select
        customer_key,
        from_date,
        until_date,
        max(case when place = 1 then category end) as main_category,
        max(share) as main_category_share_365d,
        -- Of decimals, because a sum of doubles depends on the order of the rows.
        cast(sum(cast(-share * ln(share) as decimal(18, 9))) as double) as category_entropy_365d
    from shares
    group by customer_key, from_date, until_date
)

select
    products.*,
    mixes.main_category,
    mixes.main_category_share_365d,
    mixes.category_entropy_365d
from products_measured as products
left join mixes
    on
        products.customer_key = mixes.customer_key
        and mixes.from_date <= products.snapshot_date
        and mixes.until_date > products.snapshot_date
