-- The labels that matured at the end of each requested day: the population of the day one horizon
-- earlier, as known then, judged with what is known now. Everybody of that population gets a row:
-- who did nothing at all within the horizon has churned.
-- Shorter horizons are read off the same orders. All is judged when the whole horizon has matured:
-- what is cancelled on day 40 was no purchase in the first 30 days either.
{% set windows = [30, 60, 90] %}
{% set horizon = horizon_days() | int %}
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

matured as (
    select
        snapshot_date as matured_date,
        {{ add_days('snapshot_date', '-' ~ horizon) }} as snapshot_date
    from spine
),

population as (
    select
        matured.matured_date,
        matured.snapshot_date,
        rhythm.customer_key,
        -- The 90th-percentile gap, shrunk towards the shop's; a shop in which nobody has bought
        -- twice has no rhythm, and the common horizon stands in. Rounded first: 98 days that came out
        -- as 98.00000000000001 are 98.
        cast(least(greatest(ceil(round(coalesce(rhythm.shrunk_gap_p90_days, {{ horizon }}), 6)), 30), 180) as integer)
            as personal_horizon_days
    from matured
    inner join {{ ref('int_purchase_rhythm') }} as rhythm
        on matured.snapshot_date = rhythm.as_of_date
    where rhythm.is_in_population
),

next_orders as (
    select
        population.matured_date,
        population.customer_key,
        {{ days_between('population.snapshot_date', 'orders.ordered_date') }} as days_after,
        not orders.is_wholly_cancelled as is_valid,
        orders.revenue_amount,
        orders.margin_amount
    from population
    inner join {{ ref('int_orders') }} as orders
        on
            population.customer_key = orders.customer_key
            and {{ known_on('orders', 'population.matured_date') }}
            and orders.ordered_date > population.snapshot_date
),

orders as (
    select
        {%- for n in windows if n <= horizon %}
        {{ count_if('is_valid and days_after <= ' ~ n) }} as order_count_{{ n }}d,
        {{ sum_if('revenue_amount', 'days_after <= ' ~ n) }} as revenue_amount_{{ n }}d,
        {{ sum_if('margin_amount', 'days_after <= ' ~ n) }} as known_margin_amount_{{ n }}d,
        {{ count_if('margin_amount is null and days_after <= ' ~ n) }} as unknown_margin_order_count_{{ n }}d,
        {%- endfor %}
        matured_date,
        customer_key,
        {{ count_if('is_valid') }} as order_count,
        sum(revenue_amount) as revenue_amount,
        sum(margin_amount) as known_margin_amount,
        {{ count_if('margin_amount is null') }} as unknown_margin_order_count,
        min(case when is_valid then days_after end) as days_to_next_order
    from next_orders
    group by matured_date, customer_key
),

contacts as (
    select distinct
        matured.matured_date,
        deliveries.customer_key
    from matured
    inner join {{ ref('stg_deliveries') }} as deliveries
        on
            {{ known_on('deliveries', 'matured.matured_date') }}
            and deliveries.sent_date > matured.snapshot_date
)

select
    population.matured_date,
    population.snapshot_date,
    population.customer_key,
    cast({{ horizon }} as integer) as horizon_days,
    cast(case when coalesce(orders.order_count, 0) = 0 then 1 else 0 end as integer) as is_churned,
    coalesce(orders.order_count, 0) as order_count_horizon,
    {{ amount('coalesce(orders.revenue_amount, 0)') }} as revenue_amount_horizon,
    {{ amount('case when coalesce(orders.unknown_margin_order_count, 0) = 0 then coalesce(orders.known_margin_amount, 0) end') }}
        as margin_amount_horizon,
    population.personal_horizon_days,
    -- Longer than the horizon, it has not matured: those who bought early are no fair sample of it.
    cast(case
        when population.personal_horizon_days > {{ horizon }} then null
        when orders.days_to_next_order <= population.personal_horizon_days then 0
        else 1
    end as integer) as is_churned_personal,
    contacts.customer_key is not null as was_contacted,
    cast(orders.days_to_next_order as bigint) as days_to_next_order
    {%- for n in windows %}
    {%- if n <= horizon %},
    cast(case when coalesce(orders.order_count_{{ n }}d, 0) = 0 then 1 else 0 end as integer) as is_churned_{{ n }}d,
    coalesce(orders.order_count_{{ n }}d, 0) as order_count_next_{{ n }}d,
    {{ amount('coalesce(orders.revenue_amount_' ~ n ~ 'd, 0)') }} as revenue_amount_next_{{ n }}d,
    {{ amount(
        'case when coalesce(orders.unknown_margin_order_count_' ~ n ~ 'd, 0) = 0 '
        ~ 'then coalesce(orders.known_margin_amount_' ~ n ~ 'd, 0) end'
    ) }} as margin_amount_next_{{ n }}d
    {%- else %},
    cast(null as integer) as is_churned_{{ n }}d,
    cast(null as bigint) as order_count_next_{{ n }}d,
    {{ amount('null') }} as revenue_amount_next_{{ n }}d,
    {{ amount('null') }} as margin_amount_next_{{ n }}d
    {%- endif %}
    {%- endfor %}
from population
left join orders
    on population.matured_date = orders.matured_date and population.customer_key = orders.customer_key
left join contacts
    on population.matured_date = contacts.matured_date and population.customer_key = contacts.customer_key
