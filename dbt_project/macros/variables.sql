{#
    Variables without a default: orchestration passes all of them, validated, on every invocation.
    A variable that is missing when SQL is rendered to run stops the build and is named; while dbt
    only parses, a placeholder stands in.
#}
{% macro required_var(name, placeholder) -%}
    {%- set value = var(name, none) -%}
    {%- if value is not none -%}
        {{ return(value) }}
    {%- elif execute -%}
        {{ exceptions.raise_compiler_error(
            "The variable '" ~ name ~ "' is not set. Pass all of snapshot_dates, shop_timezone, "
            ~ "active_window_days, horizon_days, history_start_date and consent_without_records "
            ~ "with --vars; none has a default."
        ) }}
    {%- else -%}
        {{ return(placeholder) }}
    {%- endif -%}
{%- endmacro %}


{% macro required_days(name) -%}
    {%- set value = required_var(name, 90) -%}
    {%- if value is not integer or value < 1 -%}
        {{ exceptions.raise_compiler_error(
            "The variable '" ~ name ~ "' must be a whole number of days, at least 1, not '" ~ value ~ "'."
        ) }}
    {%- endif -%}
    {{ return(value) }}
{%- endmacro %}


{% macro date_literal(text, name) -%}
    {%- if not modules.re.fullmatch('[0-9]{4}-[0-9]{2}-[0-9]{2}', text | string) -%}
        {{ exceptions.raise_compiler_error(
            "The variable '" ~ name ~ "' holds '" ~ text ~ "', which is not a date such as 2025-01-31."
        ) }}
    {%- endif -%}
    cast('{{ text }}' as date)
{%- endmacro %}


{% macro history_start_date() -%}
    {{ date_literal(required_var('history_start_date', '1970-01-01'), 'history_start_date') }}
{%- endmacro %}


{% macro active_window_days() -%}
    {{ required_days('active_window_days') }}
{%- endmacro %}


{% macro horizon_days() -%}
    {{ required_days('horizon_days') }}
{%- endmacro %}


{# Whether a customer without any record for a channel counts as having agreed to be contacted. #}
{% macro is_consent_assumed() -%}
    {%- set value = required_var('consent_without_records', 'denied') -%}
    {%- if value not in ['denied', 'granted'] -%}
        {{ exceptions.raise_compiler_error(
            "The variable 'consent_without_records' must be 'denied' or 'granted', not '" ~ value ~ "'."
        ) }}
    {%- endif -%}
    {{ 'true' if value == 'granted' else 'false' }}
{%- endmacro %}
