-- What each customer sent back, over windows that end with each requested day, and when last, as
-- known at its end.
with returns as (
    select * from {{ ref('int_returns') }}
),

{{ windowed('returns', 'returns') }},

{{ last_dates('returns', ['returned_date']) }}

select
    last_days.snapshot_date,
    last_days.customer_key,
    last_days.returned_date as last_return_date
    {%- for name in measure_columns('returns') %},
    coalesce(returns.{{ name }}, 0) as {{ name }}
    {%- endfor %}
from returns_last_dates as last_days
left join returns_measured as returns
    on last_days.snapshot_date = returns.snapshot_date and last_days.customer_key = returns.customer_key
