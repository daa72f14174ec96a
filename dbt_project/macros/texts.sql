{#
    Texts that are made of several.
#}

{# The texts of a group in one, by name, a | between two; null of none. Of each text give one row. #}
{% macro joined_texts(text) -%}
    {{ dbt.listagg(text, "'|'", 'order by ' ~ text) }}
{%- endmacro %}
