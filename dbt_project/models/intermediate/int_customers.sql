-- Every customer known at the end of each requested day, with what was then known of the person
-- and of the person's consent. A customer is known by an own row or by an order.
with spine as (
    select snapshot_date from {{ ref('int_snapshot_dates') }}
),

first_known as (
    select
        customer_key,
        known_date
    from {{ ref('stg_customers') }}
    union all
    select
        customer_key,
        known_date
    from {{ ref('int_orders') }}
),

customer_keys as (
    select
        customer_key,
        min(known_date) as known_date
    from first_known
    group by customer_key
),

known_customers as (
    select
        spine.snapshot_date,
        customer_keys.customer_key
    from spine
    inner join customer_keys
        on customer_keys.known_date <= spine.snapshot_date
),

consents as (
    select
        spine.snapshot_date,
        consents.customer_key,
        -- For marketing. Consent runs until its expiry: still valid at the end of the day if that lies
        -- on a later one. Who said anything of a channel, for whatever purpose, is no longer without
        -- records: nothing is assumed of the others.
        {%- for channel in ['email', 'sms', 'phone', 'post', 'push', 'ads'] %}
        max(case when consents.channel = '{{ channel }}' then
            case when consents.purpose = 'marketing' and consents.status = 'granted'
                and coalesce(consents.expires_date > spine.snapshot_date, true) then 1 else 0 end
        end) = 1 as has_{{ channel }}_consent{{ '' if loop.last else ',' }}
        {%- endfor %}
    from spine
    inner join {{ ref('int_consents') }} as consents
        on {{ known_on('consents', 'spine.snapshot_date') }}
    group by spine.snapshot_date, consents.customer_key
),

-- Every other purpose in one text; most shops have none. Nothing is ever assumed of them.
other_consents as (
    select
        spine.snapshot_date,
        consents.customer_key,
        {{ joined_texts("consents.channel || ':' || consents.purpose") }} as other_consents
    from spine
    inner join {{ ref('int_consents') }} as consents
        on
            {{ known_on('consents', 'spine.snapshot_date') }}
            and consents.purpose != 'marketing'
            and consents.status = 'granted'
            and coalesce(consents.expires_date > spine.snapshot_date, true)
    left join {{ ref('stg_customers') }} as customers
        on
            consents.customer_key = customers.customer_key
            and {{ known_on('customers', 'spine.snapshot_date') }}
    where
        case
            when consents.channel = 'email' then customers.has_email
            when consents.channel in ('sms', 'phone') then customers.has_phone
            when consents.channel = 'ads' then customers.has_email or customers.has_phone
            else true
        end
    group by spine.snapshot_date, consents.customer_key
)

select
    known_customers.snapshot_date,
    known_customers.customer_key,
    customers.created_date,
    coalesce(customers.account_type, 'consumer') as account_type,
    customers.country,
    customers.birth_year,
    customers.gender,
    customers.acquisition_channel,
    coalesce(consents.has_email_consent, {{ is_consent_assumed() }})
    and coalesce(customers.has_email, false) as has_email_consent,
    coalesce(consents.has_sms_consent, {{ is_consent_assumed() }})
    and coalesce(customers.has_phone, false) as has_sms_consent,
    coalesce(consents.has_phone_consent, {{ is_consent_assumed() }})
    and coalesce(customers.has_phone, false) as has_phone_consent,
    coalesce(consents.has_post_consent, {{ is_consent_assumed() }}) as has_post_consent,
    coalesce(consents.has_push_consent, {{ is_consent_assumed() }}) as has_push_consent,
    -- An audience of an advertiser is made of hashed addresses or phone numbers.
    coalesce(consents.has_ads_consent, {{ is_consent_assumed() }})
    and (coalesce(customers.has_email, false) or coalesce(customers.has_phone, false)) as has_ads_consent,
    other_consents.other_consents
from known_customers
left join {{ ref('stg_customers') }} as customers
    on
        known_customers.customer_key = customers.customer_key
        and {{ known_on('customers', 'known_customers.snapshot_date') }}
left join consents
    on
        known_customers.snapshot_date = consents.snapshot_date
        and known_customers.customer_key = consents.customer_key
left join other_consents
    on
        known_customers.snapshot_date = other_consents.snapshot_date
        and known_customers.customer_key = other_consents.customer_key
