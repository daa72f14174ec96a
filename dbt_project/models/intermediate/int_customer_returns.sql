-- What each customer sent back over windows that end with each requested day, as known at its end.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

returns as (
    select
        spine.snapshot_date,
        returns.customer_key,
        returns.order_id,
        returns.return_amount,
        {{ days_between('returns.returned_date', 'spine.snapshot_date') }} as age_days,
        not returns.is_wholly_cancelled
        and returns.ordered_date > {{ add_days('spine.snapshot_date', -365) }} as is_of_recent_valid_order
    from spine
    inner join {{ ref('int_returns') }} as returns
        on {{ known_on('returns', 'spine.snapshot_date') }}
)

select
    snapshot_date,
    customer_key,
    {{ count_if('age_days < 30') }} as return_count_30d,
    {{ count_if('age_days < 365') }} as return_count_365d,
    {{ sum_if('return_amount', 'age_days < 365') }} as return_amount_365d,
    count(distinct case when is_of_recent_valid_order then order_id end) as returned_order_count_365d
from returns
group by snapshot_date, customer_key
