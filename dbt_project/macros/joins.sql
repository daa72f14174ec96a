{#
    Joins of many tables.
#}

{#
    Of a CTE: worked out whole before it is read. A left join hands on what found a partner and what
    found none in chunks of their own, so that after seven of them a chunk of 2,048 rows is many small
    ones. Writing those by 90 columns takes a seventh more CPU than gathering them first. For the same
    reason joins that nearly everybody has a partner in stand first.
#}
{% macro materialized() -%}
    {{ return(adapter.dispatch('materialized')()) }}
{%- endmacro %}

{% macro default__materialized() -%}
    materialized
{%- endmacro %}

{% macro spark__materialized() -%}
{%- endmacro %}
