-- Campaign messages of which something became known on each requested day, in their state at its
-- end: sent, opened, clicked. The last row of a message up to any day is its state as of that day.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
)

select
    spine.snapshot_date,
    deliveries.campaign_id,
    deliveries.customer_key,
    deliveries.channel,
    deliveries.sent_at,
    deliveries.sent_date,
    deliveries.status,
    case when deliveries.opened_date <= spine.snapshot_date then deliveries.opened_at end as opened_at,
    case when deliveries.clicked_date <= spine.snapshot_date then deliveries.clicked_at end as clicked_at,
    {{ amount('deliveries.cost_amount') }} as cost_amount,
    deliveries.arm
from spine
inner join {{ ref('stg_deliveries') }} as deliveries
    on
        {{ known_on('deliveries', 'spine.snapshot_date') }}
        and (
            deliveries.known_date = spine.snapshot_date
            or deliveries.opened_date = spine.snapshot_date
            or deliveries.clicked_date = spine.snapshot_date
        )
