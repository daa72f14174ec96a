{#
    Time: shop days, what was known when, and the days asked for. Nothing here knows the wall clock.
#}

{# The requested days, sorted, each once. Read them from int_snapshot_dates: a table is planned better. #}
{% macro snapshot_spine() -%}
    {%- for day in snapshot_days() %}
    select {{ date_literal(day, 'snapshot_dates') }} as snapshot_date
    {%- if not loop.last %}
    union all
    {%- endif %}
    {%- endfor %}
{%- endmacro %}


{# The requested days as texts, sorted, each once. #}
{% macro snapshot_days() -%}
    {%- set dates = required_var('snapshot_dates', ['1970-01-01']) -%}
    {%- if dates is string or dates is not sequence or dates | length == 0 -%}
        {{ exceptions.raise_compiler_error(
            "The variable 'snapshot_dates' must be a list of at least one date, not '" ~ dates ~ "'."
        ) }}
    {%- endif -%}
    {{ return(dates | map('string') | unique | sort) }}
{%- endmacro %}


{# The shop's calendar day of a UTC timestamp. #}
{% macro shop_date(timestamp) -%}
    {{ return(adapter.dispatch('shop_date')(timestamp)) }}
{%- endmacro %}

{% macro default__shop_date(timestamp) -%}
    cast(timezone('{{ shop_timezone() }}', timezone('UTC', {{ timestamp }})) as date)
{%- endmacro %}

{% macro spark__shop_date(timestamp) -%}
    to_date(from_utc_timestamp({{ timestamp }}, '{{ shop_timezone() }}'))
{%- endmacro %}

{% macro shop_timezone() -%}
    {%- set name = required_var('shop_timezone', 'UTC') -%}
    {%- if not modules.re.fullmatch('[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*', name | string) -%}
        {{ exceptions.raise_compiler_error(
            "The variable 'shop_timezone' holds '" ~ name ~ "', which is not a time zone such as Europe/Berlin."
        ) }}
    {%- endif -%}
    {{ name }}
{%- endmacro %}


{# Whole days from one date to a later one. #}
{% macro days_between(from_date, to_date) -%}
    {{ return(adapter.dispatch('days_between')(from_date, to_date)) }}
{%- endmacro %}

{% macro default__days_between(from_date, to_date) -%}
    ({{ to_date }} - {{ from_date }})
{%- endmacro %}

{% macro spark__days_between(from_date, to_date) -%}
    datediff({{ to_date }}, {{ from_date }})
{%- endmacro %}


{# A date so many days before or after another. #}
{% macro add_days(date, days) -%}
    {{ return(adapter.dispatch('add_days')(date, days)) }}
{%- endmacro %}

{% macro default__add_days(date, days) -%}
    ({{ date }} + {{ days }})
{%- endmacro %}

{% macro spark__add_days(date, days) -%}
    date_add({{ date }}, {{ days }})
{%- endmacro %}


{# Bounds of the calendar: known since ever, and never superseded. #}
{% macro beginning_of_time() -%}
    cast('1900-01-01' as date)
{%- endmacro %}

{% macro end_of_time() -%}
    cast('9999-12-31' as date)
{%- endmacro %}


{# The day on which a delivered row was first known: the later of its business day and its arrival,
   where the source says when it arrived. greatest() passes over nulls. #}
{% macro known_date(row) -%}
    coalesce(greatest({{ row }}.occurred_date, {{ row }}.arrived_date), {{ beginning_of_time() }})
{%- endmacro %}


{# Whether a row with known_date and superseded_date is the truth as known at the end of a day. #}
{% macro known_on(row, day) -%}
    {{ row }}.known_date <= {{ day }} and {{ row }}.superseded_date > {{ day }}
{%- endmacro %}


{#
    Every delivered version of a row, with the days [known_date, superseded_date) on which it was
    the truth as then known: from the day on which it was known, until a version that wins over it
    is. A version that never was the truth is left out. For one key the periods are disjoint and
    leave no gap, so exactly one version is seen from the first day on which the key was known.

    The loader knows which version wins, and says since when.
#}
{% macro versions(relation) -%}
    select
        delivered.*,
        {{ known_date('delivered') }} as known_date,
        coalesce(delivered._superseded_date, {{ end_of_time() }}) as superseded_date
    from {{ relation }} as delivered
    where coalesce(delivered._superseded_date > {{ known_date('delivered') }}, true)
{%- endmacro %}
