-- The labels that matured at the end of each requested day: the population of the day one horizon
-- earlier, as known then, judged with what is known now. Everybody of that population gets a row:
-- who did nothing at all within the horizon has churned.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

matured as (
    select
        snapshot_date as matured_date,
        {{ add_days('snapshot_date', '-' ~ horizon_days()) }} as snapshot_date
    from spine
),

population as (
    select
        matured.matured_date,
        matured.snapshot_date,
        rhythm.customer_key,
        -- The 90th-percentile gap, shrunk towards the shop's; a shop in which nobody has bought
        -- twice has no rhythm, and the common horizon stands in.
        cast(least(greatest(ceil(coalesce(rhythm.shrunk_gap_p90_days, {{ horizon_days() }})), 30), 180) as integer)
            as personal_horizon_days
    from matured
    inner join {{ ref('int_purchase_rhythm') }} as rhythm
        on matured.snapshot_date = rhythm.as_of_date
    where rhythm.is_in_population
),

orders as (
    select
        population.matured_date,
        population.customer_key,
        {{ count_if('not orders.is_wholly_cancelled') }} as order_count,
        sum(orders.revenue_amount) as revenue_amount,
        sum(orders.margin_amount) as known_margin_amount,
        {{ count_if('orders.margin_amount is null') }} as unknown_margin_order_count,
        min(case when not orders.is_wholly_cancelled then {{ days_between('population.snapshot_date', 'orders.ordered_date') }} end)
            as days_to_first_order
    from population
    inner join {{ ref('int_orders') }} as orders
        on
            population.customer_key = orders.customer_key
            and {{ known_on('orders', 'population.matured_date') }}
            and orders.ordered_date > population.snapshot_date
    group by population.matured_date, population.customer_key
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
    cast({{ horizon_days() }} as integer) as horizon_days,
    cast(case when coalesce(orders.order_count, 0) = 0 then 1 else 0 end as integer) as is_churned,
    coalesce(orders.order_count, 0) as order_count_horizon,
    {{ amount('coalesce(orders.revenue_amount, 0)') }} as revenue_amount_horizon,
    {{ amount('case when coalesce(orders.unknown_margin_order_count, 0) = 0 then coalesce(orders.known_margin_amount, 0) end') }}
        as margin_amount_horizon,
    population.personal_horizon_days,
    -- Longer than the horizon, it has not matured: those who bought early are no fair sample of it.
    cast(case
        when population.personal_horizon_days > {{ horizon_days() }} then null
        when orders.days_to_first_order <= population.personal_horizon_days then 0
        else 1
    end as integer) as is_churned_personal,
    contacts.customer_key is not null as was_contacted
from population
left join orders
    on population.matured_date = orders.matured_date and population.customer_key = orders.customer_key
left join contacts
    on population.matured_date = contacts.matured_date and population.customer_key = contacts.customer_key
