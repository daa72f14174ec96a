-- The two marts agree: who has features is exactly who is active.
with population as (
    select
        snapshot_date,
        customer_key
    from {{ ref('customer_features') }}
),

active as (
    select
        snapshot_date,
        customer_key
    from {{ ref('customer_status') }}
    where lifecycle = 'active'
)

select
    coalesce(population.snapshot_date, active.snapshot_date) as snapshot_date,
    coalesce(population.customer_key, active.customer_key) as customer_key
from population
full outer join active
    on population.snapshot_date = active.snapshot_date and population.customer_key = active.customer_key
where population.customer_key is null or active.customer_key is null
