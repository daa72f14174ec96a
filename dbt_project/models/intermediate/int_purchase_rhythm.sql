-- When each customer bought, as known at the end of each requested day, and at the end of the day
-- whose labels mature on it: first and last valid order, and the gaps between days with orders.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

as_of_days as (
    select snapshot_date as as_of_date from spine
    union
    select {{ add_days('snapshot_date', '-' ~ horizon_days()) }} as as_of_date from spine
),

histories as (
    select
        customer_key,
        known_date,
        superseded_date,
        min(ordered_date) as first_order_date,
        max(ordered_date) as last_order_date,
        cast(sum(order_count) as bigint) as order_count_lifetime,
        sum(revenue_amount) as revenue_amount_lifetime,
        cast(count(gap_days) as bigint) as gap_count,
        cast(coalesce(sum(gap_days), 0) as bigint) as gap_sum_days,
        cast(coalesce(sum(gap_days * gap_days), 0) as bigint) as gap_square_sum,
        {{ quantile('gap_days', 0.5) }} as gap_median_days,
        {{ quantile('gap_days', 0.9) }} as gap_p90_days
    from {{ ref('int_purchase_histories') }}
    group by customer_key, known_date, superseded_date
),

-- The shop's rhythm: every gap that every customer has shown by then. Gaps are whole days, so there
-- are few different ones: what is counted is how often each is there, changed when that changes.
gap_changes as (
    select
        greatest(known_date, (select min(as_of_date) from as_of_days)) as change_date,
        gap_days,
        count(*) as gap_count
    from {{ ref('int_purchase_histories') }}
    where gap_days is not null
    group by change_date, gap_days
    union all
    select
        superseded_date as change_date,
        gap_days,
        -count(*) as gap_count
    from {{ ref('int_purchase_histories') }}
    where gap_days is not null and superseded_date < {{ end_of_time() }}
    group by superseded_date, gap_days
),

gaps as (
    select
        as_of_days.as_of_date,
        gap_changes.gap_days,
        sum(gap_changes.gap_count) as gap_count
    from as_of_days
    inner join gap_changes
        on as_of_days.as_of_date >= gap_changes.change_date
    group by as_of_days.as_of_date, gap_changes.gap_days
),

-- In order of length, the last place that gaps of a length take, and that of the 90th percentile,
-- which lies between two whole ones; the first place is 0.
places as (
    select
        as_of_date,
        gap_days,
        gap_count,
        sum(gap_count) over (
            partition by as_of_date
            order by gap_days
            rows between unbounded preceding and current row
        ) - 1 as last_place,
        cast(0.9 as double) * (sum(gap_count) over (partition by as_of_date) - 1) as p90_place
    from gaps
),

shops as (
    select
        as_of_days.as_of_date,
        {{ ratio('sum(places.gap_days * places.gap_count)', 'sum(places.gap_count)') }} as gap_mean_days,
        min(case when places.last_place >= floor(places.p90_place) then places.gap_days end)
        + max(places.p90_place - floor(places.p90_place)) * (
            min(case when places.last_place >= ceil(places.p90_place) then places.gap_days end)
            - min(case when places.last_place >= floor(places.p90_place) then places.gap_days end)
        ) as gap_p90_days
    from as_of_days
    left join places
        on as_of_days.as_of_date = places.as_of_date
    group by as_of_days.as_of_date
),

-- After how many of its purchases the shop lost the customer: who has been silent for longer than
-- nine of ten gaps in the shop last is taken for lost. A share of none or of most is not believed.
dropouts as (
    select
        shops.as_of_date,
        least(greatest({{ ratio(
            count_if(days_between('histories.last_order_date', 'shops.as_of_date') ~ ' > shops.gap_p90_days'),
            'sum(histories.gap_count + 1)'
        ) }}, 0.01), 0.5) as dropout_share
    from shops
    inner join histories
        on {{ known_on('histories', 'shops.as_of_date') }}
    group by shops.as_of_date
),

customers as (
    select
        histories.*,
        shops.as_of_date,
        shops.gap_mean_days as shop_gap_mean_days,
        shops.gap_p90_days as shop_gap_p90_days,
        dropouts.dropout_share,
        {{ days_between('histories.first_order_date', 'shops.as_of_date') }} as days_since_first_order,
        {{ days_between('histories.last_order_date', 'shops.as_of_date') }} as days_since_last_order
    from shops
    inner join dropouts
        on shops.as_of_date = dropouts.as_of_date
    inner join histories
        on {{ known_on('histories', 'shops.as_of_date') }}
),

-- MBG/NBD (Batislam, Denizel & Filiztekin 2007): while alive a customer buys at a rate of their own,
-- gamma(r, alpha) over the shop, and drops out after the first and every later purchase with a
-- chance of their own, beta(a, b). Plugged in, not fitted: r = 1 and alpha = the shop's mean gap,
-- whose mean rate is one purchase per mean gap; a = 2p, b = 2(1 - p), worth two purchases. In logs:
--   1 / P(alive) - 1 = a / (b + x) * ((alpha + T) / (alpha + t_x)) ** (r + x)
--   P(no purchase in h days | alive) = ((alpha + T) / (alpha + T + h)) ** (r + x)
-- of x gaps, the last of which ended t_x days after the first order, which was T days ago.
lives as (
    select
        customers.*,
        ln(2 * customers.dropout_share / (2 * (1 - customers.dropout_share) + customers.gap_count))
        + (1 + customers.gap_count) * (
            ln(customers.shop_gap_mean_days + customers.days_since_first_order)
            - ln(customers.shop_gap_mean_days + customers.gap_sum_days)
        ) as dropout_log_odds,
        (1 + customers.gap_count) * (
            ln(customers.shop_gap_mean_days + customers.days_since_first_order)
            - ln(customers.shop_gap_mean_days + customers.days_since_first_order + 30)
        ) as no_purchase_log_probability_30d
    from customers
),

-- exp() of what is not positive cannot overflow.
alive as (
    select
        *,
        case
            when dropout_log_odds > 0 then exp(-dropout_log_odds) / (1 + exp(-dropout_log_odds))
            else 1 / (1 + exp(dropout_log_odds))
        end as alive_probability
    from lives
)

select
    as_of_date,
    customer_key,
    first_order_date,
    last_order_date,
    days_since_first_order,
    days_since_last_order,
    days_since_last_order < {{ active_window_days() }} as is_in_population,
    order_count_lifetime,
    revenue_amount_lifetime,
    {{ ratio('gap_sum_days', 'gap_count') }} as gap_mean_days,
    gap_median_days,
    gap_p90_days,
    -- The sample's standard deviation from exact whole sums: sqrt((n*sum(x^2) - sum(x)^2) / (n*(n-1))).
    sqrt({{ ratio('gap_count * gap_square_sum - gap_sum_days * gap_sum_days', 'gap_count * (gap_count - 1)') }}) as gap_stddev_days,
    -- Shrunk towards the shop's: the customer's own gaps, and a few of the shop's besides.
    (gap_sum_days + {{ var('rhythm_prior_gap_count') }} * shop_gap_mean_days)
    / (gap_count + {{ var('rhythm_prior_gap_count') }}) as shrunk_gap_mean_days,
    (
        gap_count * coalesce(gap_p90_days, 0)
        + {{ var('rhythm_prior_gap_count') }} * shop_gap_p90_days
    ) / (gap_count + {{ var('rhythm_prior_gap_count') }}) as shrunk_gap_p90_days,
    alive_probability,
    alive_probability * (1 - exp(no_purchase_log_probability_30d)) as purchase_probability_30d
from alive
