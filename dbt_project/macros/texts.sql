{#
    Texts that are made of several.
#}

{# The different texts of a group in one, by name, a | between two; null of none. #}
{% macro joined_texts(text) -%}
    {{ return(adapter.dispatch('joined_texts')(text)) }}
{%- endmacro %}

{% macro default__joined_texts(text) -%}
    string_agg(distinct {{ text }}, '|' order by {{ text }})
{%- endmacro %}

{% macro spark__joined_texts(text) -%}
    nullif(array_join(sort_array(collect_set({{ text }})), '|'), '')
{%- endmacro %}
