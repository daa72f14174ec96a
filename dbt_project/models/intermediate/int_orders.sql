-- Every state that an order went through, with the days [known_date, superseded_date) on which it
-- was the state as known. The state as of the end of D is the one row with
-- known_date <= D < superseded_date. Only a delivery begins no state of its own: it changes nothing
-- else, and is not known before its delivered_date.
with changes as (
    select
        order_id,
        known_date
    from {{ ref('stg_orders') }}
    union
    select
        order_id,
        cancelled_date as known_date
    from {{ ref('stg_orders') }}
    where cancelled_date > known_date and cancelled_date < superseded_date
    union
    select
        order_id,
        known_date
    from {{ ref('int_order_lines') }}
),

periods as (
    select
        order_id,
        known_date,
        lead(known_date, 1, {{ end_of_time() }}) over (
            partition by order_id
            order by known_date
        ) as superseded_date
    from changes
),

line_amounts as (
    select
        periods.order_id,
        periods.known_date,
        count(*) as line_count,
        sum(lines.net_quantity) as item_count,
        sum(lines.cancelled_quantity) as cancelled_item_count,
        sum(lines.gross_amount) as gross_amount,
        sum(lines.net_amount) as net_amount,
        sum(lines.cost_amount) as known_cost_amount,
        count(lines.cost_amount) as costed_line_count,
        max(lines.cancelled_at) as last_cancelled_at
    from periods
    inner join {{ ref('int_order_lines') }} as lines
        on
            periods.order_id = lines.order_id
            and {{ known_on('lines', 'periods.known_date') }}
    group by periods.order_id, periods.known_date
),

states as (
    select
        periods.order_id,
        periods.known_date,
        periods.superseded_date,
        orders.customer_key,
        orders.ordered_at,
        orders.ordered_date,
        orders.channel,
        orders.shipping_amount,
        orders.discount_amount,
        line_amounts.last_cancelled_at,
        orders.delivered_at,
        orders.delivered_date,
        case when orders.cancelled_date <= periods.known_date then orders.cancelled_at end as order_cancelled_at,
        coalesce(line_amounts.line_count, 0) as line_count,
        coalesce(line_amounts.item_count, 0) as item_count,
        coalesce(line_amounts.gross_amount, 0) as gross_amount,
        coalesce(line_amounts.net_amount, 0) as net_amount,
        coalesce(line_amounts.known_cost_amount, 0) as known_cost_amount,
        -- An order whose lines are not known has no known cost either.
        coalesce(line_amounts.costed_line_count = line_amounts.line_count, false) as is_cost_known,
        coalesce(orders.cancelled_date <= periods.known_date, false)
        or coalesce(line_amounts.item_count = 0 and line_amounts.cancelled_item_count > 0, false) as is_wholly_cancelled
    from periods
    inner join {{ ref('stg_orders') }} as orders
        on
            periods.order_id = orders.order_id
            and {{ known_on('orders', 'periods.known_date') }}
    left join line_amounts
        on
            periods.order_id = line_amounts.order_id
            and periods.known_date = line_amounts.known_date
),

-- The discount never exceeds what is left to discount, so a cancellation takes it along.
discounted as (
    select
        *,
        case when is_wholly_cancelled then 0 else least(discount_amount, net_amount) end as known_discount_amount
    from states
)

select
    order_id,
    customer_key,
    ordered_at,
    ordered_date,
    channel,
    delivered_at,
    delivered_date,
    is_wholly_cancelled,
    case when is_wholly_cancelled then coalesce(order_cancelled_at, last_cancelled_at) end as cancelled_at,
    line_count,
    cast(item_count as bigint) as item_count,
    {{ amount('gross_amount') }} as gross_amount,
    {{ amount('gross_amount - net_amount') }} as cancelled_amount,
    {{ amount('net_amount') }} as net_amount,
    {{ amount('known_discount_amount') }} as discount_amount,
    {{ amount('case when is_wholly_cancelled then 0 else shipping_amount end') }} as shipping_amount,
    {{ amount('net_amount - known_discount_amount') }} as revenue_amount,
    case
        when is_wholly_cancelled then {{ amount(0) }}
        when is_cost_known then {{ amount('net_amount - known_discount_amount - known_cost_amount') }}
    end as margin_amount,
    is_wholly_cancelled or is_cost_known as is_margin_known,
    known_date,
    superseded_date
from discounted
