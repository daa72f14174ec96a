-- Every state that an order line went through, with the days on which it was the state as known:
-- a later version, a cancellation and a product's first delivery each begin a new one.
with lines as (
    -- A line is known once both its order and itself are; a version of either begins a period.
    select
        orders.order_id,
        items.line_number,
        orders.customer_key,
        orders.ordered_at,
        orders.ordered_date,
        items.product_id,
        items.quantity,
        items.unit_price,
        items.cancelled_quantity,
        items.cancelled_at as line_cancelled_at,
        orders.cancelled_at as order_cancelled_at,
        orders.cancelled_date as order_cancelled_date,
        greatest(orders.known_date, items.known_date) as known_date,
        least(orders.superseded_date, items.superseded_date) as superseded_date,
        -- Without a time of its own a cancellation is as old as the version that tells of it.
        case
            when items.cancelled_quantity > 0 then coalesce(items.cancelled_date, items.known_date)
        end as line_cancelled_date
    from {{ ref('stg_orders') }} as orders
    inner join {{ ref('stg_order_items') }} as items
        on
            orders.order_id = items.order_id
            and orders.known_date < items.superseded_date
            and items.known_date < orders.superseded_date
),

first_products as (
    select
        product_id,
        min(known_date) as first_known_date
    from {{ ref('stg_products') }}
    group by product_id
),

-- Cost and category are those of the day on which the line became known, and stay: a product that
-- turns dearer does not change what was earned on it. Where the product was delivered only later,
-- its first version counts, from the day on which that was known.
priced as (
    select
        lines.*,
        products.category,
        products.unit_cost,
        -- greatest() passes over nulls, and a product that was never delivered is not known.
        case
            when first_products.product_id is not null
                then greatest(lines.known_date, first_products.first_known_date)
        end as product_known_date
    from lines
    left join first_products
        on lines.product_id = first_products.product_id
    left join {{ ref('stg_products') }} as products
        on
            lines.product_id = products.product_id
            and {{ known_on('products', 'greatest(lines.known_date, first_products.first_known_date)') }}
),

-- The days inside the period on which the state changed, in order; the period's end for none.
clipped as (
    select
        priced.*,
        least(greatest(coalesce(line_cancelled_date, superseded_date), known_date), superseded_date) as first_date,
        least(greatest(coalesce(order_cancelled_date, superseded_date), known_date), superseded_date) as second_date,
        least(greatest(coalesce(product_known_date, superseded_date), known_date), superseded_date) as third_date
    from priced
),

sorted as (
    select
        clipped.*,
        least(first_date, second_date, third_date) as change_1_date,
        greatest(least(first_date, second_date), least(greatest(first_date, second_date), third_date)) as change_2_date,
        greatest(first_date, second_date, third_date) as change_3_date
    from clipped
),

pieces as (
    select 0 as piece
    union all
    select 1 as piece
    union all
    select 2 as piece
    union all
    select 3 as piece
),

states as (
    select
        sorted.*,
        case pieces.piece when 0 then known_date when 1 then change_1_date when 2 then change_2_date else change_3_date end
            as state_date,
        case pieces.piece when 0 then change_1_date when 1 then change_2_date when 2 then change_3_date else superseded_date end
            as next_state_date
    from sorted
    cross join pieces
),

known as (
    select
        *,
        coalesce(order_cancelled_date <= state_date, false) as is_order_cancelled,
        coalesce(line_cancelled_date <= state_date, false) as is_line_cancelled,
        coalesce(product_known_date <= state_date, false) as is_product_known
    from states
    where state_date < next_state_date
),

counted as (
    select
        *,
        case
            when is_order_cancelled then quantity
            when is_line_cancelled then cancelled_quantity
            else 0
        end as known_cancelled_quantity,
        case when is_product_known then category end as known_category,
        case when is_product_known then unit_cost end as known_unit_cost
    from known
)

select
    order_id,
    line_number,
    customer_key,
    ordered_at,
    ordered_date,
    product_id,
    is_product_known as is_in_catalogue,
    known_category as category,
    unit_price,
    quantity,
    known_cancelled_quantity as cancelled_quantity,
    quantity - known_cancelled_quantity as net_quantity,
    {{ amount('quantity * unit_price') }} as gross_amount,
    {{ amount('(quantity - known_cancelled_quantity) * unit_price') }} as net_amount,
    -- What was cancelled whole costs nothing, so its cost need not be known.
    case
        when quantity = known_cancelled_quantity then {{ amount(0) }}
        else {{ amount('(quantity - known_cancelled_quantity) * known_unit_cost') }}
    end as cost_amount,
    case
        when is_order_cancelled and is_line_cancelled then least(order_cancelled_at, line_cancelled_at)
        when is_order_cancelled then order_cancelled_at
        when is_line_cancelled then line_cancelled_at
    end as cancelled_at,
    state_date as known_date,
    next_state_date as superseded_date
from counted
