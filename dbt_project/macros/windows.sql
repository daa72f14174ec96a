{#
    Measures over sliding windows, from their declaration (`vars: measures` in dbt_project.yml).

    A fact that was known on the days [known_date, superseded_date) and happened on day t counts, for
    a window of w days, on the days [max(known_date, t), min(superseded_date, t + w)): one interval.
    So a measure on day D is the sum over the facts whose interval holds D, and between two days it
    changes by what enters and what leaves. From this follow both paths:

      one day    facts whose interval holds it, summed per customer
      a range    its first day as one day, and from there what enters and leaves, per customer and
                 day; a running sum; each state spread over the days on which it stood

    A range therefore costs the facts in the window on its first day and the changes within it, not
    days x facts x windows. Distinct counts use the same form: of the intervals of one thing, each
    adds only what those before it have not covered, which leaves disjoint pieces. Nearly always they
    hang together, and are one.
#}

{#
    CTEs `<group>_facts`, ..., and last `<group>_measured`: snapshot_date, customer_key and a column
    per measure and window, for customers with any fact in reach of a requested day. Counts and sums
    of nothing are zero.

    `facts` names a CTE or relation with customer_key, known_date, superseded_date, and what the
    declaration refers to. Facts are `summed` if on any one day at most one is known for each thing
    that is counted once: one day need not look for a second.
#}
{% macro windowed(group, facts, summed=false) -%}
    {%- do ref('int_snapshot_dates') -%}  {# dbt parses one day, where it does not occur #}
    {%- set plan = _window_plan(group, is_once=summed and is_one_day()) -%}

    -- What entered before the first day is there on it; what enters after the last never does.
    {{ group }}_facts as (
        select
            customer_key,
            known_date,
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

    {{ _begun(group, plan) }},

    {% if is_one_day() -%}
    {{ group }}_measured as (
        select
            snapshot_date,
            customer_key
            {%- for c in plan.columns %},
            {{ _result(c, c.name) }} as {{ c.name }}
            {%- endfor %}
        from {{ group }}_begun
    )
    {%- else -%}
    {{ _measured_over_a_range(group, plan) }}
    {%- endif %}
{%- endmacro %}


{#
    What the SQL needs of a group. enters, exits, terms, things: expressions, each once. columns:
    a measure's name and kind, and which of those it is made of.
#}
{% macro _window_plan(group, is_once=false) -%}
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
                'is_distinct': of.distinct is defined and not is_once,
                'is_whole': of.amount is not defined,
                'enter': 'enter_' ~ plan.enters.index(enter | trim),
                'exit': 'exit_' ~ plan.exits.index(exit),
                'value': 'value_' ~ plan.terms.index(value | trim),
                'things': items,
                'items': items | join(', '),
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
    below 2^53, and 40 % faster than the 128 bits in which DuckDB adds integers and decimals that come
    out of a CTE. Divided back, an amount rounds to itself below 2^51 (225 billion in money).
#}
{% macro _as_number(expression) -%}
    cast(cast({{ expression }} as bigint) as double)
{%- endmacro %}

{% macro _result(column, expression) -%}
    {%- if column.is_whole -%} cast(coalesce({{ expression }}, 0) as bigint)
    {%- else -%} {{ amount('coalesce(' ~ expression ~ ', 0) / 10000') }}
    {%- endif -%}
{%- endmacro %}


{#
    CTE `<group>_begun`: every measure per customer on the first requested day, as it is added up.
    One day needs no more; a range goes on from it.
#}
{% macro _begun(group, plan) -%}
    {%- set distincts = plan.columns | selectattr('is_distinct') | list -%}
    {{ group }}_sums as (
        select
            customer_key
            {%- for c in plan.columns | rejectattr('is_distinct') %},
            sum(case when {{ c.enter }} = first_date and {{ c.exit }} > first_date then {{ c.value }} end) as {{ c.name }}
            {%- endfor %}
        from {{ group }}_facts
        where known_date <= first_date
        group by customer_key
    ),

    {{ _things(group, plan) }}
    {%- for items, columns in distincts | groupby('items') %}
    {{ group }}_counts_{{ loop.index0 }} as (
        select
            customer_key
            {%- for c in columns %},
            count(case when enter_{{ loop.index0 }} = first_date then 1 end) as {{ c.name }}
            {%- endfor %}
        from {{ group }}_things_{{ loop.index0 }}
        group by customer_key
    ),

    {% endfor -%}
    {{ group }}_begun as (
        select
            {{ first_date() }} as snapshot_date,
            sums.customer_key
            {%- for c in plan.columns %},
            {{ 'cast(' ~ c.name ~ ' as double)' if c.is_distinct else c.name }} as {{ c.name }}
            {%- endfor %}
        from {{ group }}_sums as sums
        {%- for items, columns in distincts | groupby('items') %}
        left join {{ group }}_counts_{{ loop.index0 }} as counts_{{ loop.index0 }}
            on sums.customer_key = counts_{{ loop.index0 }}.customer_key
        {%- endfor %}
    )
{%- endmacro %}


{#
    CTEs `<group>_things_<n>`: per customer and thing that is counted once, over which days it is in
    sight, and whether these hang together.
#}
{% macro _things(group, plan) -%}
    {%- for items, columns in plan.columns | selectattr('is_distinct') | groupby('items') -%}
    {{ group }}_things_{{ loop.index0 }} as (
        select
            customer_key,
            first_date,
            last_date,
            {{ items }}
            {%- for c in columns %}
            {%- set is_counted = c.value ~ ' = 1 and ' ~ c.exit ~ ' > ' ~ c.enter %},
            min(case when {{ is_counted }} then {{ c.enter }} end) as enter_{{ loop.index0 }},
            max(case when {{ is_counted }} then {{ c.exit }} end) as exit_{{ loop.index0 }},
            -- Intervals that all hold one day, or end where others begin, are one.
            max(case when {{ is_counted }} then {{ c.enter }} end)
            <= min(case when {{ is_counted }} then {{ c.exit }} end) as is_whole_{{ loop.index0 }}
            {%- endfor %}
        from {{ group }}_facts
        group by customer_key, first_date, last_date, {{ items }}
    ),

    {% endfor -%}
{%- endmacro %}


{% macro _measured_over_a_range(group, plan) -%}
    {%- set sums = plan.columns | rejectattr('is_distinct') | list -%}
    {%- for items, columns in plan.columns | selectattr('is_distinct') | groupby('items') %}
    {%- set things = group ~ '_things_' ~ loop.index0 %}
    {%- for c in columns %}
    -- Of the intervals of one thing, what those before them have not covered.
    {{ group }}_{{ c.name }}_pieces as (
        select
            customer_key,
            first_date,
            last_date,
            enter_{{ loop.index0 }} as enter_date,
            exit_{{ loop.index0 }} as exit_date
        from {{ things }}
        where is_whole_{{ loop.index0 }}
        union all
        select
            customer_key,
            first_date,
            last_date,
            greatest(enter_date, coalesce(covered_date, enter_date)) as enter_date,
            exit_date
        from (
            select
                facts.customer_key,
                facts.first_date,
                facts.last_date,
                facts.{{ c.enter }} as enter_date,
                facts.{{ c.exit }} as exit_date,
                max(facts.{{ c.exit }}) over (
                    partition by facts.customer_key
                    {%- for item in c.things %}, facts.{{ item }}{% endfor %}
                    order by facts.{{ c.enter }}, facts.{{ c.exit }}
                    rows between unbounded preceding and 1 preceding
                ) as covered_date
            from {{ group }}_facts as facts
            inner join {{ things }} as things
                on
                    facts.customer_key = things.customer_key
                    {%- for item in c.things %}
                    and facts.{{ item }} is not distinct from things.{{ item }}
                    {%- endfor %}
            where
                not things.is_whole_{{ loop.index0 }}
                and facts.{{ c.value }} = 1
                and facts.{{ c.exit }} > facts.{{ c.enter }}
        ) as covered
        where exit_date > coalesce(covered_date, enter_date)
    ),
    {%- endfor %}
    {%- endfor %}

    {{ group }}_changes as (
        {%- for enter, columns in sums | groupby('enter') %}
        {{ _change(group ~ '_facts', enter, plan, columns, 'case when {exit} > {enter} then {value} end') }}
        where
            {{ enter }} > first_date
            and ({% for exit in columns | map(attribute='exit') | unique %}{{ exit }} > {{ enter }}{{ ' or ' if not loop.last }}{% endfor %})
        {%- for exit, leaving in columns | groupby('exit') %}
        union all
        {{ _change(group ~ '_facts', exit, plan, leaving, '-{value}') }}
        where {{ exit }} > {{ enter }} and {{ exit }} <= last_date
        {%- endfor %}
        {% if not loop.last %}union all{% endif %}
        {%- endfor %}
        {%- for c in plan.columns | selectattr('is_distinct') %}
        {%- for date, change in [('enter_date', 1), ('exit_date', -1)] %}
        {% if not (loop.first and c == plan.columns[0] and sums | length == 0) %}union all{% endif %}
        {{ _change(group ~ '_' ~ c.name ~ '_pieces', date, plan, [c], _as_number(change)) }}
        where {{ date }} > first_date and {{ date }} <= last_date
        {%- endfor %}
        {%- endfor %}
    ),

    {{ _spread(group, plan) }}
{%- endmacro %}


{# One kind of change on a day: what it adds to some columns; nothing to the others. #}
{% macro _change(relation, date, plan, columns, change) -%}
        {%- set names = columns | map(attribute='name') | list -%}
        select
            customer_key,
            {{ date }} as change_date
            {%- for c in plan.columns %},
            {% if c.name in names -%}
            {{ change.replace('{exit}', c.exit).replace('{enter}', c.enter).replace('{value}', c.value) }} as {{ c.name }}
            {%- else -%} null as {{ c.name }}
            {%- endif -%}
            {%- endfor %}
        from {{ relation }}
{%- endmacro %}


{#
    From what there is on the first requested day and the changes after it to the state on every
    requested day: CTEs `<group>_steps`, `<group>_states` and `<group>_measured`.
#}
{% macro _spread(group, plan) -%}
    -- A change between two requested days is seen on the later one.
    {{ group }}_steps as (
        select
            1 as snapshot_number,
            customer_key
            {%- for c in plan.columns %},
            {{ c.name }}
            {%- endfor %}
        from {{ group }}_begun
        union all
        select
            calendar.snapshot_number,
            changes.customer_key
            {%- for c in plan.columns %},
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
            {{ until_number() }}
            {%- for c in plan.columns %},
            {{ _result(c, 'sum(' ~ c.name ~ ') over (partition by customer_key order by snapshot_number rows between unbounded preceding and current row)') }}
                as {{ c.name }}
            {%- endfor %}
        from {{ group }}_steps
    ),

    {{ group }}_measured as (
        {{ on_each_day(group ~ '_states', plan.columns | map(attribute='name')) }}
    )
{%- endmacro %}


{# The number of the requested day on which a customer's next state begins. #}
{% macro until_number() -%}
    lead(snapshot_number, 1, (select count(*) + 1 from {{ ref('int_snapshot_dates') }})) over (
                partition by customer_key
                order by snapshot_number
            ) as until_number
{%- endmacro %}


{# States of customers from one numbered day to before another, on each of the days between. #}
{% macro on_each_day(states, columns) -%}
    select
            {{ each_of('days.snapshot_dates', 'states.from_number', 'states.until_number') }} as snapshot_date,
            states.customer_key
            {%- for name in columns %},
            states.{{ name }}
            {%- endfor %}
        from {{ states }} as states
        cross join ({{ listed_days() }}) as days
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
    CTE `<facts>_last_dates`: the last of each of some `dates` among the facts of each customer, as
    known at the end of each requested day; a fact without a date says nothing of it. Facts are first
    gathered by the requested day on which they come into sight, which leaves at most one row per
    customer and requested day to look back over. The few that a later version superseded come and
    go: they are looked up day by day.
#}
{% macro last_dates(facts, dates) -%}
    {{ facts }}_sightings as (
        select
            facts.customer_key,
            greatest(facts.known_date, bounds.first_date) as change_date
            {%- for date in dates %},
            max(facts.{{ date }}) as {{ date }}
            {%- endfor %}
        from {{ facts }} as facts
        inner join ({{ bounds() }}) as bounds
            on facts.known_date <= bounds.last_date
        where facts.superseded_date = {{ end_of_time() }}
        group by facts.customer_key, greatest(facts.known_date, bounds.first_date)
    ),

    {{ facts }}_sighted as (
        select
            snapshot_number as from_number,
            customer_key,
            {{ until_number() }}
            {%- for date in dates %},
            max({{ date }}) over (
                partition by customer_key
                order by snapshot_number
                rows between unbounded preceding and current row
            ) as {{ date }}
            {%- endfor %}
        from (
            select
                calendar.snapshot_number,
                sightings.customer_key
                {%- for date in dates %},
                max(sightings.{{ date }}) as {{ date }}
                {%- endfor %}
            from {{ facts }}_sightings as sightings
            inner join ({{ calendar() }}) as calendar
                on sightings.change_date = calendar.calendar_date
            group by calendar.snapshot_number, sightings.customer_key
        ) as steps
    ),

    {{ facts }}_superseded as (
        select
            spine.snapshot_date,
            facts.customer_key
            {%- for date in dates %},
            max(facts.{{ date }}) as {{ date }}
            {%- endfor %}
        from {{ ref('int_snapshot_dates') }} as spine
        inner join {{ facts }} as facts
            on {{ known_on('facts', 'spine.snapshot_date') }}
        where facts.superseded_date < {{ end_of_time() }}
        group by spine.snapshot_date, facts.customer_key
    ),

    {%- set is_revised -%}
        exists (select 1 from {{ facts }}_superseded as superseded where states.customer_key = superseded.customer_key)
    {%- endset %}

    {{ facts }}_last_dates as (
        {{ on_each_day(facts ~ '_sighted', dates) }}
        where not {{ is_revised }}
        union all
        select
            snapshot_date,
            customer_key
            {%- for date in dates %},
            max({{ date }}) as {{ date }}
            {%- endfor %}
        from (
            {{ on_each_day(facts ~ '_sighted', dates) }}
            where {{ is_revised }}
            union all
            select * from {{ facts }}_superseded
        ) as candidates
        group by snapshot_date, customer_key
    )
{%- endmacro %}


{#
    For facts that are summed before windows are: what is known of a row on some requested day, and
    which rows may be summed together: those known on the same days. Where only one day is asked for,
    that day is all there is to say of when a row was known.
#}
{% macro known_within(row, bounds) -%}
    {{ row }}.known_date <= {{ bounds }}.last_date and {{ row }}.superseded_date > {{ bounds }}.first_date
{%- endmacro %}

{% macro known_together(row) -%}
    {%- if is_one_day() -%}
    {{ first_date() }} as known_date,
    {{ end_of_time() }} as superseded_date
    {%- else -%}
    {{ row }}.known_date,
    {{ row }}.superseded_date
    {%- endif -%}
{%- endmacro %}

{% macro known_apart(row) -%}
    {%- if not is_one_day() -%}, {{ row }}.known_date, {{ row }}.superseded_date{%- endif -%}
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


{# The first requested day by itself: what is compared with it is not read where it does not hold. #}
{% macro first_date() -%}
    (select min(snapshot_date) from {{ ref('int_snapshot_dates') }})
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


{# The requested days as one list, in order. #}
{% macro listed_days() -%}
    {{ return(adapter.dispatch('listed_days')()) }}
{%- endmacro %}

{% macro default__listed_days() -%}
    select list(snapshot_date order by snapshot_date) as snapshot_dates
    from {{ ref('int_snapshot_dates') }}
{%- endmacro %}

{% macro spark__listed_days() -%}
    select sort_array(collect_list(snapshot_date)) as snapshot_dates
    from {{ ref('int_snapshot_dates') }}
{%- endmacro %}


{# One row for each element of a list from the one numbered `first` to before `end`. #}
{% macro each_of(list, first, end) -%}
    {{ return(adapter.dispatch('each_of')(list, first, end)) }}
{%- endmacro %}

{% macro default__each_of(list, first, end) -%}
    unnest({{ list }}[{{ first }}:{{ end }} - 1])
{%- endmacro %}

{% macro spark__each_of(list, first, end) -%}
    explode(slice({{ list }}, {{ first }}, {{ end }} - {{ first }}))
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
