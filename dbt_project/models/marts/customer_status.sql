-- Every customer known on each requested day: where the person stands, and whether and how the
-- person may be talked to.
with statuses as {{ materialized() }} (
    select
        customers.snapshot_date,
        customers.customer_key,
        customers.account_type,
        case
            when rhythm.customer_key is null then 'prospect'
            when rhythm.is_in_population then 'active'
            else 'dormant'
        end as lifecycle,
        rhythm.first_order_date,
        rhythm.last_order_date,
        cast(rhythm.days_since_last_order as bigint) as days_since_last_order,
        coalesce(orders.order_count_365d, 0) as order_count_365d,
        {{ amount('coalesce(orders.revenue_amount_365d, 0)') }} as revenue_amount_365d,
        {{ amount(
            'case when coalesce(orders.unknown_margin_order_count_365d, 0) = 0 '
            ~ 'then coalesce(orders.known_margin_amount_365d, 0) end'
        ) }}
            as margin_amount_365d,
        coalesce(orders.unknown_margin_order_count_365d, 0) = 0 as is_margin_known,
        coalesce(rhythm.order_count_lifetime, 0) as order_count_lifetime,
        {{ amount('coalesce(rhythm.revenue_amount_lifetime, 0)') }} as revenue_amount_lifetime,
        customers.has_email_consent,
        customers.has_sms_consent,
        customers.has_phone_consent,
        customers.has_post_consent,
        customers.has_push_consent,
        customers.has_ads_consent,
        customers.other_consents,
        coalesce(service.open_ticket_count, 0) as open_ticket_count,
        coalesce(service.ticket_count_30d, 0) as ticket_count_30d,
        coalesce(service.low_rating_count_90d, 0) as low_rating_count_90d,
        coalesce(orders.undelivered_order_count, 0) as undelivered_order_count,
        coalesce(returns.return_count_30d, 0) as return_count_30d,
        contacts.last_contact_date,
        coalesce(contacts.contact_count_7d, 0) as contact_count_7d,
        coalesce(contacts.contact_count_30d, 0) as contact_count_30d,

        -- what is told of customers outside the population, too, so that they have a value and a
        -- purchase probability
        cast(rhythm.days_since_first_order as bigint) as days_since_first_order,
        cast({{ days_between('customers.created_date', 'customers.snapshot_date') }} as bigint) as days_since_created,
        rhythm.gap_mean_days,
        coalesce(orders.order_count_30d, 0) as order_count_30d,
        coalesce(orders.order_count_90d, 0) as order_count_90d,
        {{ amount('coalesce(orders.revenue_amount_30d, 0)') }} as revenue_amount_30d,
        {{ amount('coalesce(orders.revenue_amount_90d, 0)') }} as revenue_amount_90d,
        coalesce(engagement.event_count_30d, 0) as event_count_30d,
        coalesce(engagement.cart_count_30d, 0) as cart_count_30d,
        cast({{ days_between('last_events.last_event_date', 'customers.snapshot_date') }} as bigint) as days_since_last_event,
        products.main_category,
        products.main_category_share_365d,
        categories.categories_7d,
        categories.categories_30d
    from {{ ref('int_customers') }} as customers
    left join {{ ref('int_customer_last_events') }} as last_events
        on customers.snapshot_date = last_events.snapshot_date and customers.customer_key = last_events.customer_key
    left join {{ ref('int_customer_engagement') }} as engagement
        on customers.snapshot_date = engagement.snapshot_date and customers.customer_key = engagement.customer_key
    left join {{ ref('int_purchase_rhythm') }} as rhythm
        on customers.snapshot_date = rhythm.as_of_date and customers.customer_key = rhythm.customer_key
    left join {{ ref('int_customer_orders') }} as orders
        on customers.snapshot_date = orders.snapshot_date and customers.customer_key = orders.customer_key
    left join {{ ref('int_customer_products') }} as products
        on customers.snapshot_date = products.snapshot_date and customers.customer_key = products.customer_key
    left join {{ ref('int_customer_contacts') }} as contacts
        on customers.snapshot_date = contacts.snapshot_date and customers.customer_key = contacts.customer_key
    left join {{ ref('int_customer_service') }} as service
        on customers.snapshot_date = service.snapshot_date and customers.customer_key = service.customer_key
    left join {{ ref('int_customer_returns') }} as returns
        on customers.snapshot_date = returns.snapshot_date and customers.customer_key = returns.customer_key
    left join {{ ref('int_customer_categories') }} as categories
        on customers.snapshot_date = categories.snapshot_date and customers.customer_key = categories.customer_key
)

select * from statuses
