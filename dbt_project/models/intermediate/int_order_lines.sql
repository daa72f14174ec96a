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
        greatest(lines.known_date, first_products.first_known_date) as product_known_date
    from lines
    left join first_products
        on lines.product_id = first_products.product_id
    left join {{ ref('stg_products') }} as products
        on
            lines.product_id = products.product_id
            and {{ known_on('products', 'greatest(lines.known_date, first_products.first_known_date)') }}
),

-- Days inside a period on which the line's state changed.
changes as (
    select
        order_id,
        line_number,
        known_date as version_date,
        line_cancelled_date as change_date
    from priced
    where line_cancelled_date > known_date and line_cancelled_date < superseded_date
    union
    select
        order_id,
        line_number,
        known_date as version_date,
        order_cancelled_date as change_date
    from priced
    where order_cancelled_date > known_date and order_cancelled_date < superseded_date
    union
    select
        order_id,
        line_number,
        known_date as version_date,
        product_known_date as change_date
    from priced
    where product_known_date > known_date and product_known_date < superseded_date
),

first_changes as (
    select
        order_id,
        line_number,
        version_date,
        min(change_date) as change_date
    from changes
    group by order_id, line_number, version_date
),

periods as (
    select
        priced.*,
        coalesce(first_changes.change_date, priced.superseded_date) as until_date
    from priced
    left join first_changes
        on
            priced.order_id = first_changes.order_id
            and priced.line_number = first_changes.line_number
            and priced.known_date = first_changes.version_date
),

states as (
    select
        periods.*,
        periods.known_date as state_date,
        periods.until_date as next_state_date
    from periods
    union all
    select
        periods.*,
        changes.change_date as state_date,
        lead(changes.change_date, 1, periods.superseded_date) over (
            partition by changes.order_id, changes.line_number, changes.version_date
            order by changes.change_date
        ) as next_state_date
    from periods
    inner join changes
        on
            periods.order_id = changes.order_id
            and periods.line_number = changes.line_number
            and periods.known_date = changes.version_date
),

known as (
    select
        *,
        coalesce(order_cancelled_date <= state_date, false) as is_order_cancelled,
        coalesce(line_cancelled_date <= state_date, false) as is_line_cancelled,
        coalesce(product_known_date <= state_date, false) as is_product_known
    from states
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
    is_order_cancelled,
    state_date as known_date,
    next_state_date as superseded_date
from counted
