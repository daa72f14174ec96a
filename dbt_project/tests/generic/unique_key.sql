{#
    The columns together identify a row. A null in one of them identifies nothing and fails too.
#}
{% test unique_key(model, columns) %}
select
    {% for column in columns %}{{ column }}, {% endfor %}
    count(*) as row_count
from {{ model }}
group by {% for column in columns %}{{ column }}{% if not loop.last %}, {% endif %}{% endfor %}
having count(*) > 1{% for column in columns %} or {{ column }} is null{% endfor %}
{% endtest %}
