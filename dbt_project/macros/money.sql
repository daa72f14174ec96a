{#
    Exact arithmetic: amounts stay DECIMAL(18,4), sums are exact, and a ratio is one final
    expression over exact sums, so that the order of rows and the number of threads never show.
#}
{% macro amount(expression) -%}
    cast({{ expression }} as decimal(18, 4))
{%- endmacro %}


{# A ratio of two exact numbers as a double; null where the denominator is null or zero. #}
{% macro ratio(numerator, denominator) -%}
    (cast({{ numerator }} as double) / nullif(cast({{ denominator }} as double), 0))
{%- endmacro %}


{# How many rows meet a condition, as a whole number of ordinary size. #}
{% macro count_if(condition) -%}
    cast(count(case when {{ condition }} then 1 end) as bigint)
{%- endmacro %}


{# The exact sum of what meets a condition, zero where nothing does. #}
{% macro sum_if(expression, condition) -%}
    coalesce(sum(case when {{ condition }} then {{ expression }} end), 0)
{%- endmacro %}


{# An interpolated quantile of whole numbers; nulls do not count. #}
{% macro quantile(column, share) -%}
    {{ return(adapter.dispatch('quantile')(column, share)) }}
{%- endmacro %}

{% macro default__quantile(column, share) -%}
    quantile_cont({{ column }}, {{ share }})
{%- endmacro %}

{% macro spark__quantile(column, share) -%}
    percentile({{ column }}, {{ share }})
{%- endmacro %}
