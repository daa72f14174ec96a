-- Returns beside the state of their order, with the days on which both were the state as known.
select
    returns.return_id,
    returns.order_id,
    orders.customer_key,
    orders.ordered_date,
    orders.is_wholly_cancelled,
    returns.returned_date,
    -- Without an amount, what was returned is worth its price; without a line, nothing is known.
    {{ amount('coalesce(returns.amount, returns.quantity * items.unit_price, 0)') }} as return_amount,
    greatest(returns.known_date, orders.known_date) as known_date,
    least(returns.superseded_date, orders.superseded_date) as superseded_date
from {{ ref('stg_returns') }} as returns
inner join {{ ref('int_orders') }} as orders
    on
        returns.order_id = orders.order_id
        and returns.known_date < orders.superseded_date
        and orders.known_date < returns.superseded_date
left join {{ ref('stg_order_items') }} as items
    on
        returns.order_id = items.order_id
        and returns.line_number = items.line_number
        and {{ known_on('items', 'greatest(returns.known_date, orders.known_date)') }}
