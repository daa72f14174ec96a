{#
    Measures over sliding windows, from their declaration (`vars: measures` in dbt_project.yml).

    A fact that was known on the days [known_date, superseded_date) and happened on day t counts, for
    a window of w days, on the days [max(known_date, t), min(superseded_date, t + w)): one interval.
    So a measure on day D is the sum over the facts whose interval holds D, and between two days it
    changes by what enters and what leaves. From this follow both paths:

      one day    facts whose interval holds it, summed per customer
      a range    what enters and leaves, per customer and day; a running sum; spread over the days

    A range therefore costs the facts in the window on its first day and the changes within it, not
    days x facts x windows. Distinct counts use the same form: of the intervals of one thing, each
    adds only what those before it have not covered, which leaves disjoint pieces.
#}

{#
    CTEs `<group>_facts`, ..., and last `<group>_measured`: snapshot_date, customer_key and a column
    per measure and window, for customers with any fact in reach of a requested day. Counts and sums
    of nothing are zero.

    `facts` names a CTE or relation with customer_key, known_date, superseded_date, and what the
    declaration refers to.
#}
{% macro windowed(group, facts) -%}
    {%- do ref('int_snapshot_dates') -%}  {# dbt parses one day, where it does not occur #}
    {%- set plan = _window_plan(group) -%}

    -- What entered before the first day is there on it; what enters after the last never does.
    {{ group }}_facts as (
        select
            customer_key,
            bounds.first_date,
            bounds.last_date
            {%- for enter in plan.enters %},
            case when {{ enter }} <= bounds.last_date then greatest({{ enter }}, bounds.first_date) end as enter_{{ loop.index0 }}
            {%- endfor %}
            {%- for exit in plan.exits %},
            {{ exit }} as exit_{{ loop.index0 }}
            {%- endfor %}
            {%- for value in plan.terms %},
            {{ value }} as value_{{ loop.index0 }}
            {%- endfor %}
            {%- for column in plan.things %},
            {{ column }} as item_{{ loop.index0 }}
            {%- endfor %}
        from {{ facts }}
        cross join ({{ bounds() }}) as bounds
        where
            known_date <= bounds.last_date
            and superseded_date > bounds.first_date
            {%- if plan.reaches | length > 0 %}
            and ({% for reach in plan.reaches %}{{ reach }} > bounds.first_date{{ ' or ' if not loop.last }}{% endfor %})
            {%- endif %}
    ),
    {% if is_one_day() -%}
    {{ _measured_on_one_day(group, plan) }}
    {%- else -%}
    {{ _measured_over_a_range(group, plan) }}
    {%- endif %}
{%- endmacro %}


{#
    What the SQL needs of a group. enters, exits, terms, things: expressions, each once. columns:
    a measure's name and kind, and which of those it is made of.
#}
{% macro _window_plan(group) -%}
    {%- set declared = var('measures')[group] -%}
    {%- set plan = {'enters': [], 'exits': [], 'terms': [], 'things': [], 'reaches': [], 'columns': []} -%}
    {%- for measure, of in declared.measures.items() -%}
        {%- set clock = of.clock or declared.clock -%}
        {%- for window in of.windows -%}
            {%- set begin = clock if not of.from else add_days(clock, of.from) -%}
            {#- A fact is never known before its group's clock. -#}
            {%- set enter -%}
                {%- if clock == declared.clock and not of.from -%} known_date
                {%- elif clock == declared.clock -%} greatest(known_date, {{ begin }})
                {%- else -%} case when {{ clock }} is not null then greatest(known_date, {{ begin }}) end
                {%- endif -%}
            {%- endset -%}
            {%- set ends = [] -%}
            {%- if window is not none -%}{%- do ends.append(add_days(clock, window)) -%}{%- endif -%}
            {%- if of.until -%}
                {%- do ends.append("coalesce(" ~ of.until ~ ", " ~ end_of_time() ~ ")") -%}
            {%- endif -%}
            {%- set exit = 'least(superseded_date, ' ~ ends | join(', ') ~ ')' -%}
            {%- if window is not none -%}{%- do _once(plan.reaches, add_days(clock, of.windows | max)) -%}{%- endif -%}
            {%- set value -%}
                {%- if of.amount -%} {{ _as_number('coalesce(' ~ of.amount ~ ', 0) * 10000') }}
                {%- elif of.sum -%} {{ _as_number('coalesce(' ~ of.sum ~ ', 0)') }}
                {%- else -%} {{ _as_number('case when ' ~ (of.where or of.count) ~ ' then 1 else 0 end') }}
                {%- endif -%}
            {%- endset -%}
            {%- do _once(plan.enters, enter | trim) -%}
            {%- do _once(plan.exits, exit) -%}
            {%- do _once(plan.terms, value | trim) -%}
            {%- set items = [] -%}
            {%- for column in of.distinct or [] -%}
                {%- do _once(plan.things, column) -%}
                {%- do items.append('item_' ~ plan.things.index(column)) -%}
            {%- endfor -%}
            {%- do plan.columns.append({
                'name': of.name or measure ~ '_' ~ window ~ 'd',
                'is_distinct': of.distinct is defined,
                'is_whole': of.amount is not defined,
                'enter': 'enter_' ~ plan.enters.index(enter | trim),
                'exit': 'exit_' ~ plan.exits.index(exit),
                'value': 'value_' ~ plan.terms.index(value | trim),
                'things': items | join(', '),
            }) -%}
        {%- endfor -%}
    {%- endfor -%}
    {#- An open window reaches every day. -#}
    {%- for of in declared.measures.values() -%}
        {%- if none in of.windows -%}{%- do plan.update({'reaches': []}) -%}{%- endif -%}
    {%- endfor -%}
    {{ return(plan) }}
{%- endmacro %}

{% macro _once(list, item) -%}
    {%- if item not in list -%}{%- do list.append(item) -%}{%- endif -%}
{%- endmacro %}

{#
    What is added up is a whole number in a double, an amount in ten-thousandths: exact in any order
    below 2^53 (900 billion in money), and 40 % faster than the 128 bits in which DuckDB adds
    integers and decimals that come out of a CTE.
#}
{% macro _as_number(expression) -%}
    cast(cast({{ expression }} as bigint) as double)
{%- endmacro %}

{% macro _result(column, expression) -%}
    {%- set whole = 'cast(coalesce(' ~ expression ~ ', 0) as bigint)' -%}
    {%- if column.is_whole -%} {{ whole }}
    {%- else -%} {{ amount(whole ~ ' * cast(0.0001 as decimal(5, 4))') }}
    {%- endif -%}
{%- endmacro %}


{% macro _measured_on_one_day(group, plan) -%}
    {%- set sums = plan.columns | rejectattr('is_distinct') | list -%}
    {%- set distincts = plan.columns | selectattr('is_distinct') | list -%}
    {{ group }}_sums as (
        select
            first_date as snapshot_date,
            customer_key
            {%- for c in sums %},
            sum(case when {{ c.exit }} > {{ c.enter }} then {{ c.value }} end) as {{ c.name }}
            {%- endfor %}
        from {{ group }}_facts
        group by first_date, customer_key
    ),
    {%- for items, columns in distincts | groupby('things') %}
    {%- set number = loop.index0 %}

    {{ group }}_items_{{ number }} as (
        select
            customer_key
            {%- for c in columns %},
            count(last_date_{{ loop.index0 }}) as {{ c.name }}
            {%- endfor %}
        from (
            select
                customer_key
                {%- for c in columns %},
                max(case when {{ c.value }} = 1 and {{ c.exit }} > {{ c.enter }} then {{ c.exit }} end) as last_date_{{ loop.index0 }}
                {%- endfor %}
            from {{ group }}_facts
            group by customer_key, {{ items }}
        ) as items
        group by customer_key
    ),
    {%- endfor %}

    {{ group }}_measured as (
        select
            sums.snapshot_date,
            sums.customer_key
            {%- for c in plan.columns %},
            {{ _result(c, c.name) }} as {{ c.name }}
            {%- endfor %}
        from {{ group }}_sums as sums
        {%- for items, columns in distincts | groupby('things') %}
        left join {{ group }}_items_{{ loop.index0 }} as items_{{ loop.index0 }}
            on sums.customer_key = items_{{ loop.index0 }}.customer_key
        {%- endfor %}
    )
{%- endmacro %}


{% macro _measured_over_a_range(group, plan) -%}
    {%- set sums = plan.columns | rejectattr('is_distinct') | list -%}
    {%- set distincts = plan.columns | selectattr('is_distinct') | list -%}
    {%- for c in distincts %}
    -- Of the intervals of one thing, what those before them have not covered.
    {{ group }}_pieces_{{ loop.index0 }} as (
        select
            customer_key,
            last_date,
            greatest(enter_date, coalesce(covered_date, enter_date)) as enter_date,
            exit_date
        from (
            select
                customer_key,
                last_date,
                {{ c.enter }} as enter_date,
                {{ c.exit }} as exit_date,
                max({{ c.exit }}) over (
                    partition by customer_key, {{ c.things }}
                    order by {{ c.enter }}, {{ c.exit }}
                    rows between unbounded preceding and 1 preceding
                ) as covered_date
            from {{ group }}_facts
            where {{ c.value }} = 1 and {{ c.exit }} > {{ c.enter }}
        ) as covered
        where exit_date > coalesce(covered_date, enter_date)
    ),
    {%- endfor %}

    {{ group }}_changes as (
        {%- for enter, columns in sums | groupby('enter') %}
        select
            customer_key,
            {{ enter }} as change_date
            {%- for c in plan.columns %},
            {% if not c.is_distinct and c.enter == enter -%}
            case when {{ c.exit }} > {{ enter }} then {{ c.value }} end as {{ c.name }}
            {%- else -%} null as {{ c.name }}
            {%- endif -%}
            {%- endfor %}
        from {{ group }}_facts
        where ({% for exit in columns | map(attribute='exit') | unique %}{{ exit }} > {{ enter }}{{ ' or ' if not loop.last }}{% endfor %})
        union all
        {%- for exit, leaving in columns | groupby('exit') %}
        select
            customer_key,
            {{ exit }} as change_date
            {%- for c in plan.columns %},
            {% if not c.is_distinct and c.enter == enter and c.exit == exit -%} -{{ c.value }} as {{ c.name }}
            {%- else -%} null as {{ c.name }}
            {%- endif -%}
            {%- endfor %}
        from {{ group }}_facts
        where {{ exit }} > {{ enter }} and {{ exit }} <= last_date
        {% if not loop.last %}union all{% endif %}
        {%- endfor %}
        {% if not loop.last %}union all{% endif %}
        {%- endfor %}
        {%- for distinct in distincts %}
        {%- set number = loop.index0 %}
        {%- for date, change in [('enter_date', _as_number(1)), ('exit_date', _as_number(-1))] %}
        {% if not (loop.first and number == 0 and sums | length == 0) %}union all{% endif %}
        select
            customer_key,
            {{ date }} as change_date
            {%- for c in plan.columns %},
            {{ change if c.name == distinct.name else 'null' }} as {{ c.name }}
            {%- endfor %}
        from {{ group }}_pieces_{{ number }}
        where {{ date }} <= last_date
        {%- endfor %}
        {%- endfor %}
    ),

    {{ spread(group, plan.columns) }}
{%- endmacro %}


{#
    From changes per customer and day to the state on every requested day: CTEs `<group>_steps`,
    `<group>_states` and `<group>_measured`.
#}
{% macro spread(group, columns) -%}
    -- A change between two requested days is seen on the later one.
    {{ group }}_steps as (
        select
            calendar.snapshot_number,
            changes.customer_key
            {%- for c in columns %},
            sum(changes.{{ c.name }}) as {{ c.name }}
            {%- endfor %}
        from {{ group }}_changes as changes
        inner join ({{ calendar() }}) as calendar
            on changes.change_date = calendar.calendar_date
        group by calendar.snapshot_number, changes.customer_key
    ),

    {{ group }}_states as (
        select
            snapshot_number as from_number,
            customer_key,
            lead(snapshot_number, 1, (select count(*) + 1 from {{ ref('int_snapshot_dates') }})) over (
                partition by customer_key
                order by snapshot_number
            ) as until_number
            {%- for c in columns %},
            {{ _result(c, 'sum(' ~ c.name ~ ') over (partition by customer_key order by snapshot_number rows between unbounded preceding and current row)') }}
                as {{ c.name }}
            {%- endfor %}
        from {{ group }}_steps
    ),

    {{ group }}_measured as (
        select
            spine.snapshot_date,
            spread.customer_key
            {%- for c in columns %},
            spread.{{ c.name }}
            {%- endfor %}
        from (
            select
                {{ each_number('from_number', 'until_number') }} as snapshot_number,
                *
            from {{ group }}_states
        ) as spread
        inner join ({{ numbered_days() }}) as spine
            on spread.snapshot_number = spine.snapshot_number
    )
{%- endmacro %}


{#
    For what does not add up (a maximum, a share): CTE `<intervals>_periods`, every interval in each
    period between requested days, [from_date, until_date), in which nothing in sight of its customer
    changed: what is worked out of them is worked out once a period. `intervals` names a CTE with
    customer_key, enter_date and exit_date.
#}
{% macro periods(intervals) -%}
    {%- if is_one_day() %}
    {{ intervals }}_periods as (
        select
            intervals.*,
            spine.snapshot_date as from_date,
            {{ end_of_time() }} as until_date
        from {{ intervals }} as intervals
        inner join {{ ref('int_snapshot_dates') }} as spine
            on intervals.enter_date <= spine.snapshot_date and intervals.exit_date > spine.snapshot_date
    )
    {%- else %}
    {{ intervals }}_changes as (
        select
            intervals.customer_key,
            greatest(intervals.enter_date, bounds.first_date) as change_date
        from {{ intervals }} as intervals
        inner join ({{ bounds() }}) as bounds
            on intervals.enter_date <= bounds.last_date and intervals.exit_date > bounds.first_date
        union
        select
            intervals.customer_key,
            intervals.exit_date as change_date
        from {{ intervals }} as intervals
        inner join ({{ bounds() }}) as bounds
            on intervals.exit_date <= bounds.last_date and intervals.exit_date > bounds.first_date
    ),

    {{ intervals }}_steps as (
        select
            customer_key,
            snapshot_date as from_date,
            lead(snapshot_date, 1, {{ end_of_time() }}) over (
                partition by customer_key
                order by snapshot_date
            ) as until_date
        from (
            select distinct
                changes.customer_key,
                calendar.snapshot_date
            from {{ intervals }}_changes as changes
            inner join ({{ calendar() }}) as calendar
                on changes.change_date = calendar.calendar_date
        ) as days
    ),

    {{ intervals }}_periods as (
        select
            intervals.*,
            steps.from_date,
            steps.until_date
        from {{ intervals }}_steps as steps
        inner join {{ intervals }} as intervals
            on
                steps.customer_key = intervals.customer_key
                and intervals.enter_date <= steps.from_date
                and intervals.exit_date > steps.from_date
    )
    {%- endif %}
{%- endmacro %}


{#
    CTE `<facts>_last_dates`: the last `date` of any fact of each customer, as known at the end of
    each requested day. Facts are first gathered by the requested day on which they come into sight,
    which leaves at most one row per customer and requested day to look back over. The few that a
    later version superseded come and go, and are looked up day by day.
#}
{% macro last_dates(facts, date) -%}
    {{ facts }}_sightings as (
        select
            facts.customer_key,
            greatest(facts.known_date, bounds.first_date) as change_date,
            max(facts.{{ date }}) as last_date
        from {{ facts }} as facts
        inner join ({{ bounds() }}) as bounds
            on facts.known_date <= bounds.last_date
        where facts.superseded_date = {{ end_of_time() }}
        group by facts.customer_key, greatest(facts.known_date, bounds.first_date)
    ),

    {{ facts }}_sighted as (
        select
            customer_key,
            from_date,
            max(last_date) over (
                partition by customer_key
                order by from_date
                rows between unbounded preceding and current row
            ) as last_date,
            lead(from_date, 1, {{ end_of_time() }}) over (
                partition by customer_key
                order by from_date
            ) as until_date
        from (
            select
                sightings.customer_key,
                calendar.snapshot_date as from_date,
                max(sightings.last_date) as last_date
            from {{ facts }}_sightings as sightings
            inner join ({{ calendar() }}) as calendar
                on sightings.change_date = calendar.calendar_date
            group by sightings.customer_key, calendar.snapshot_date
        ) as steps
    ),

    {{ facts }}_last_dates as (
        select
            snapshot_date,
            customer_key,
            max(last_date) as last_date
        from (
            select
                spine.snapshot_date,
                sighted.customer_key,
                sighted.last_date
            from {{ ref('int_snapshot_dates') }} as spine
            inner join {{ facts }}_sighted as sighted
                on sighted.from_date <= spine.snapshot_date and sighted.until_date > spine.snapshot_date
            union all
            select
                spine.snapshot_date,
                facts.customer_key,
                facts.{{ date }} as last_date
            from {{ ref('int_snapshot_dates') }} as spine
            inner join {{ facts }} as facts
                on {{ known_on('facts', 'spine.snapshot_date') }}
            where facts.superseded_date < {{ end_of_time() }}
        ) as candidates
        group by snapshot_date, customer_key
    )
{%- endmacro %}


{# The columns that a group of measures has. #}
{% macro measure_columns(group) -%}
    {{ return(_window_plan(group).columns | map(attribute='name') | list) }}
{%- endmacro %}


{# The days of the longest window that is declared in some groups. #}
{% macro longest_window(groups) -%}
    {%- set windows = [] -%}
    {%- for group in groups -%}
        {%- for of in var('measures')[group].measures.values() -%}{%- do windows.extend(of.windows) -%}{%- endfor -%}
    {%- endfor -%}
    {{ return(windows | max) }}
{%- endmacro %}


{#
    The one thing about the days that shapes the SQL: whether there is more than one of them. Which
    they are stands in int_snapshot_dates alone.
#}
{% macro is_one_day() -%}
    {{ return(snapshot_days() | length == 1) }}
{%- endmacro %}


{% macro bounds() -%}
    select
        min(snapshot_date) as first_date,
        max(snapshot_date) as last_date
    from {{ ref('int_snapshot_dates') }}
{%- endmacro %}


{# The requested days, in order, numbered from 1. #}
{% macro numbered_days() -%}
    select
        snapshot_date,
        row_number() over (order by snapshot_date) as snapshot_number
    from {{ ref('int_snapshot_dates') }}
{%- endmacro %}


{# Every day from the first to the last requested one, with the requested day that follows it. #}
{% macro calendar() -%}
    select
        dates.calendar_date,
        min(spine.snapshot_date) as snapshot_date,
        min(spine.snapshot_number) as snapshot_number
    from ({{ date_series() }}) as dates
    inner join ({{ numbered_days() }}) as spine
        on dates.calendar_date <= spine.snapshot_date
    group by dates.calendar_date
{%- endmacro %}


{# One row for each whole number from `first` to before `end`. #}
{% macro each_number(first, end) -%}
    {{ return(adapter.dispatch('each_number')(first, end)) }}
{%- endmacro %}

{% macro default__each_number(first, end) -%}
    unnest(range({{ first }}, {{ end }}))
{%- endmacro %}

{% macro spark__each_number(first, end) -%}
    explode(sequence({{ first }}, {{ end }} - 1))
{%- endmacro %}

{% macro date_series() -%}
    {{ return(adapter.dispatch('date_series')()) }}
{%- endmacro %}

{% macro default__date_series() -%}
    select cast(unnest(generate_series(first_date, last_date, interval 1 day)) as date) as calendar_date
    from ({{ bounds() }})
{%- endmacro %}

{% macro spark__date_series() -%}
    select explode(sequence(first_date, last_date)) as calendar_date
    from ({{ bounds() }})
{%- endmacro %}
