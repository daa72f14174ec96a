with customers as (
    {{ versions(source('raw', 'customers')) }}
)

select
    customer_key,
    occurred_date as created_date,
    coalesce(account_type, 'consumer') as account_type,
    country,
    birth_year,
    gender,
    acquisition_channel,
    coalesce(has_email, false) as has_email,
    coalesce(has_phone, false) as has_phone,
    known_date,
    superseded_date
from customers
