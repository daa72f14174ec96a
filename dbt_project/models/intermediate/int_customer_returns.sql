-- What each customer sent back over windows that end with each requested day, as known at its end.
with returns as (
    select * from {{ ref('int_returns') }}
),

{{ windowed('returns', 'returns') }}

select * from returns_measured
