-- The population of each requested day with everything that a model may know of it.
{%- set has_last_year = history_start_date() ~ ' <= ' ~ add_days('rhythm.as_of_date', -364) %}
with features as {{ materialized() }} (
    select
        rhythm.as_of_date as snapshot_date,
        rhythm.customer_key,
        customers.account_type,
        products.main_category,
        customers.country,
        cast(customers.birth_year as bigint) as birth_year,
        customers.gender,
        customers.acquisition_channel,

        -- recency and tenure
        cast(rhythm.days_since_last_order as bigint) as days_since_last_order,
        cast(rhythm.days_since_first_order as bigint) as days_since_first_order,
        coalesce(
            rhythm.first_order_date < {{ add_days(history_start_date(), active_window_days()) }}
            or customers.created_date < {{ history_start_date() }},
            false
        ) as is_tenure_censored,
        cast({{ days_between('customers.created_date', 'rhythm.as_of_date') }} as bigint) as days_since_created,

        -- frequency
        coalesce(orders.order_count_30d, 0) as order_count_30d,
        coalesce(orders.order_count_90d, 0) as order_count_90d,
        coalesce(orders.order_count_180d, 0) as order_count_180d,
        coalesce(orders.order_count_365d, 0) as order_count_365d,
        rhythm.order_count_lifetime,
        coalesce(orders.order_day_count_365d, 0) as order_day_count_365d,

        -- money and price level
        {{ amount('coalesce(orders.revenue_amount_30d, 0)') }} as revenue_amount_30d,
        {{ amount('coalesce(orders.revenue_amount_90d, 0)') }} as revenue_amount_90d,
        {{ amount('coalesce(orders.revenue_amount_180d, 0)') }} as revenue_amount_180d,
        {{ amount('coalesce(orders.revenue_amount_365d, 0)') }} as revenue_amount_365d,
        {{ amount(
            'case when coalesce(orders.unknown_margin_order_count_365d, 0) = 0 '
            ~ 'then coalesce(orders.known_margin_amount_365d, 0) end'
        ) }}
            as margin_amount_365d,
        {{ amount(ratio('orders.revenue_amount_365d', 'orders.order_count_365d')) }} as average_order_amount_365d,
        {{ amount('orders.max_order_amount_365d') }} as max_order_amount_365d,
        {{ amount(ratio('orders.net_amount_365d', 'orders.item_count_365d')) }} as average_unit_price_amount_365d,

        -- rhythm
        rhythm.gap_mean_days,
        rhythm.gap_median_days,
        rhythm.gap_stddev_days,
        rhythm.gap_p90_days,
        {{ ratio('rhythm.days_since_last_order', 'rhythm.shrunk_gap_mean_days') }} as silence_ratio,
        {{ ratio('rhythm.days_since_last_order', 'rhythm.shrunk_gap_p90_days') }} as silence_p90_ratio,
        rhythm.alive_probability,
        rhythm.purchase_probability_30d,
        coalesce(2 * orders.order_count_90d - orders.order_count_180d, 0) as order_count_change_90d,
        {{ amount('coalesce(2 * orders.revenue_amount_90d - orders.revenue_amount_180d, 0)') }} as revenue_amount_change_90d,
        {{ amount(
            ratio('orders.revenue_amount_90d', 'orders.order_count_90d') ~ ' - ' ~ ratio(
                '(orders.revenue_amount_180d - orders.revenue_amount_90d)',
                '(orders.order_count_180d - orders.order_count_90d)'
            )
        ) }} as average_order_amount_change_90d,

        -- returns, cancellations, discounts, coupons
        coalesce(returns.return_count_365d, 0) as return_count_365d,
        {{ amount('coalesce(returns.return_amount_365d, 0)') }} as return_amount_365d,
        {{ ratio('coalesce(returns.returned_order_count_365d, 0)', 'orders.order_count_365d') }} as return_rate_365d,
        cast({{ days_between('returns.last_return_date', 'rhythm.as_of_date') }} as bigint) as days_since_last_return,
        coalesce(orders.cancelled_order_count_365d, 0) as cancelled_order_count_365d,
        {{ amount('coalesce(orders.cancelled_amount_365d, 0)') }} as cancelled_amount_365d,
        {{ amount('coalesce(orders.discount_amount_365d, 0)') }} as discount_amount_365d,
        {{ ratio('orders.discount_amount_365d', 'orders.net_amount_365d') }} as discount_rate_365d,
        {{ ratio('orders.discounted_order_count_365d', 'orders.order_count_365d') }} as discounted_order_rate_365d,
        coalesce(service.coupon_redeemed_count_365d, 0) as coupon_redeemed_count_365d,
        coalesce(service.open_coupon_count, 0) as open_coupon_count,

        -- breadth
        coalesce(products.product_count_365d, 0) as product_count_365d,
        coalesce(products.category_count_365d, 0) as category_count_365d,
        cast(coalesce(orders.item_count_365d, 0) as bigint) as item_count_365d,
        products.main_category_share_365d,
        products.category_entropy_365d,

        -- the same weeks a year ago, where the shop's history reaches back over all of them
        case when {{ has_last_year }} then coalesce(orders.order_count_same_weeks_last_year, 0) end
            as order_count_same_weeks_last_year,
        {{ amount('case when ' ~ has_last_year ~ ' then coalesce(orders.revenue_amount_same_weeks_last_year, 0) end') }}
            as revenue_amount_same_weeks_last_year,
        case when {{ has_last_year }} then {{ ratio('orders.order_count_same_weeks_last_year', 'orders.order_count_365d') }} end
            as same_weeks_order_share,
        {{ has_last_year }} as has_last_year,

        -- deliveries
        coalesce(orders.late_delivery_count_180d, 0) as late_delivery_count_180d,
        {{ ratio('orders.delivery_sum_days_180d', 'orders.delivered_count_180d') }} as delivery_days_mean_180d,
        coalesce(orders.undelivered_order_count, 0) as undelivered_order_count,

        -- browsing
        coalesce(engagement.event_count_7d, 0) as event_count_7d,
        coalesce(engagement.event_count_30d, 0) as event_count_30d,
        coalesce(engagement.event_count_90d, 0) as event_count_90d,
        coalesce(engagement.event_day_count_30d, 0) as event_day_count_30d,
        coalesce(engagement.event_day_count_90d, 0) as event_day_count_90d,
        coalesce(engagement.view_count_30d, 0) as view_count_30d,
        coalesce(engagement.cart_count_30d, 0) as cart_count_30d,
        coalesce(engagement.session_count_30d, 0) as session_count_30d,
        cast({{ days_between('last_events.last_event_date', 'rhythm.as_of_date') }} as bigint) as days_since_last_event,
        cast({{ days_between('last_events.last_cart_date', 'rhythm.as_of_date') }} as bigint) as days_since_last_cart,
        coalesce(2 * engagement.event_count_30d - engagement.event_count_60d, 0) as event_count_change_30d,
        {{ ratio('30 * engagement.event_count_7d', '7 * engagement.event_count_30d') }} as event_decay_ratio_30d,

        -- service and reviews
        coalesce(service.ticket_count_90d, 0) as ticket_count_90d,
        coalesce(service.ticket_count_365d, 0) as ticket_count_365d,
        coalesce(service.open_ticket_count, 0) as open_ticket_count,
        cast({{ days_between('service.last_ticket_date', 'rhythm.as_of_date') }} as bigint) as days_since_last_ticket,
        service.csat_mean_365d,
        coalesce(service.review_count_365d, 0) as review_count_365d,
        service.rating_mean_365d,
        cast(service.last_rating as bigint) as last_rating,
        cast(service.last_rating as double) - service.rating_mean_365d as rating_change,
        coalesce(service.low_rating_count_180d, 0) as low_rating_count_180d,
        cast({{ days_between('service.last_review_date', 'rhythm.as_of_date') }} as bigint) as days_since_last_review,

        -- e-mail engagement and contacts received. A shop may tell of opens as events, as what became
        -- of a delivery, or both: the larger count holds, so that one open is not two.
        greatest(coalesce(engagement.email_open_count_90d, 0), coalesce(contacts.email_open_count_90d, 0)) as email_open_count_90d,
        greatest(coalesce(engagement.email_click_count_90d, 0), coalesce(contacts.email_click_count_90d, 0)) as email_click_count_90d,
        case when contacts.email_count_90d > 0 then
            least(1, {{ ratio(
                'greatest(coalesce(engagement.email_open_count_90d, 0), contacts.email_open_count_90d)',
                'contacts.email_count_90d'
            ) }})
        end as email_open_rate_90d,
        cast({{ days_between('last_events.last_email_open_date', 'rhythm.as_of_date') }} as bigint) as days_since_last_email_open,
        coalesce(contacts.contact_count_30d, 0) as contact_count_30d,
        coalesce(contacts.contact_count_90d, 0) as contact_count_90d,
        coalesce(contacts.contact_count_365d, 0) as contact_count_365d,
        {{ ratio('contacts.answered_contact_count_365d', 'contacts.contact_count_365d') }} as contact_response_rate_365d,
        cast({{ days_between('contacts.last_contact_date', 'rhythm.as_of_date') }} as bigint) as days_since_last_contact
    from {{ ref('int_purchase_rhythm') }} as rhythm
    inner join {{ ref('int_customers') }} as customers
        on rhythm.as_of_date = customers.snapshot_date and rhythm.customer_key = customers.customer_key
    left join {{ ref('int_customer_orders') }} as orders
        on rhythm.as_of_date = orders.snapshot_date and rhythm.customer_key = orders.customer_key
    left join {{ ref('int_customer_products') }} as products
        on rhythm.as_of_date = products.snapshot_date and rhythm.customer_key = products.customer_key
    left join {{ ref('int_customer_last_events') }} as last_events
        on rhythm.as_of_date = last_events.snapshot_date and rhythm.customer_key = last_events.customer_key
    left join {{ ref('int_customer_engagement') }} as engagement
        on rhythm.as_of_date = engagement.snapshot_date and rhythm.customer_key = engagement.customer_key
    left join {{ ref('int_customer_service') }} as service
        on rhythm.as_of_date = service.snapshot_date and rhythm.customer_key = service.customer_key
    left join {{ ref('int_customer_contacts') }} as contacts
        on rhythm.as_of_date = contacts.snapshot_date and rhythm.customer_key = contacts.customer_key
    left join {{ ref('int_customer_returns') }} as returns
        on rhythm.as_of_date = returns.snapshot_date and rhythm.customer_key = returns.customer_key
    where rhythm.is_in_population
)

select * from features
