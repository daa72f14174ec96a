-- Which statement about consent held for each customer, channel and purpose, on the days
-- [known_date, superseded_date): the last one made, of those known. A statement that became known
-- only after a later one had been made never held. Of two made at the same instant, the one that
-- forbids holds.
with ranked as (
    select
        customer_key,
        channel,
        purpose,
        status,
        expires_date,
        known_date,
        coalesce(
            min(known_date) over (
                partition by customer_key, channel, purpose
                order by changed_at, known_date, case when status = 'granted' then 0 else 1 end, status
                rows between 1 following and unbounded following
            ),
            {{ end_of_time() }}
        ) as superseded_date
    from {{ ref('stg_consents') }}
)

select
    customer_key,
    channel,
    purpose,
    status,
    expires_date,
    known_date,
    superseded_date
from ranked
where known_date < superseded_date
