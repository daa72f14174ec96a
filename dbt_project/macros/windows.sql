{#
    Measures over sliding windows, from their declaration (`vars: measures` in dbt_project.yml).

    A fact that was known on the days [known_date, superseded_date) and happened on day t counts, for
    a window of w days, on the days [max(known_date, t), min(superseded_date, t + w)): one interval.
    So a measure on day D is the sum over the facts whose interval holds D, and between two days it
    changes by what enters and what leaves. From this follow both paths:

      one day    one aggregation, straight from the facts
      a range    its first day likewise, and from there what enters and leaves, per customer and day;
                 a running sum; each state spread over the days on which it stood

    A range therefore costs the facts in the window on its first day and the changes within it, not
    days x facts x windows. Distinct counts use the same form: of the intervals of one thing, each
    adds only what those before it have not covered, which leaves disjoint pieces. Nearly always they
    hang together, and are one.
#}

{#
    CTEs `<group>_...`, and last `<group>_measured`: snapshot_date, customer_key and a column per
    measure and window, for customers with any fact in reach of a requested day. Counts and sums of
    nothing are zero.

    `facts` names a CTE or relation with customer_key, known_date, superseded_date, and what the
    declaration refers to. Where a customer has many of a day, `dense`, a range adds those up first.
#}
{% macro windowed(group, facts, dense=false) -%}
    {%- do ref('int_snapshot_dates') -%}  {# dbt parses one day, where it does not occur #}
    {%- set columns = _window_columns(group) -%}
    {%- if is_one_day() -%}
    {{ _measured_on_a_day(group, facts, columns) }}
    {%- else -%}
    {{ _measured_over_a_range(group, facts, columns, dense) }}
    {%- endif -%}
{%- endmacro %}


{#
    What a group declares, a column per measure and window. is_later: whether a fact may be known
    before its clock, which it never is before that of its group. condition: which facts count; a
    thing that is null is none. sum: what is added up of a fact, where it is not counted. things: of
    what each counts once.
#}
{% macro _window_columns(group) -%}
    {%- set declared = var('measures')[group] -%}
    {%- set clocks = [] -%}
    {%- set columns = [] -%}
    {%- for measure, of in declared.measures.items() -%}
        {%- set clock = of.clock or declared.clock -%}
        {%- set conditions = [of.where or of.count] if of.where or of.count else [] -%}
        {%- for column in of.distinct or [] if column != clock -%}
            {%- do conditions.append(column ~ ' is not null') -%}
        {%- endfor -%}
        {%- set sum = none -%}
        {%- if of.amount -%}{%- set sum = _as_number('coalesce(' ~ of.amount ~ ', 0) * 10000') -%}
        {%- elif of.sum -%}{%- set sum = _as_number('coalesce(' ~ of.sum ~ ', 0)') -%}
        {%- endif -%}
        {%- for window in of.windows -%}
            {%- do columns.append({
                'name': of.name or measure ~ '_' ~ window ~ 'd',
                'clock': clock,
                'age': 'age_' ~ _once(clocks, clock),
                'is_later': clock != declared.clock,
                'from': of.from or 0,
                'window': window,
                'until': of.until,
                'condition': conditions | join(' and '),
                'sum': sum,
                'is_amount': of.amount is defined,
                'things': of.distinct or [],
            }) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(columns) }}
{%- endmacro %}

{# The place of an item in a list that holds each once. #}
{% macro _once(list, item) -%}
    {%- if item not in list -%}{%- do list.append(item) -%}{%- endif -%}
    {{ return(list.index(item)) }}
{%- endmacro %}


{#
    CTE `<group>_in_reach`: the facts that are known by the last requested day and in reach of a
    window; beside each the first and the last requested day, and how many days old it was on the
    first by each clock. An open window reaches every day.
#}
{% macro _in_reach(group, facts, columns) -%}
    {{ group }}_in_reach as (
        select
            facts.*,
            bounds.first_date,
            bounds.last_date
            {%- for age, aged in columns | groupby('age') %},
            {{ days_between(aged[0].clock, 'bounds.first_date') }} as {{ age }}
            {%- endfor %}
        from {{ facts }} as facts
        cross join ({{ bounds() }}) as bounds
        where
            known_date <= bounds.last_date
            and superseded_date > bounds.first_date
            {%- if none not in columns | map(attribute='window') | list %}
            and (
                {%- for clock, of in columns | groupby('clock') -%}
                {{ clock }} > {{ add_days(first_date(), '-' ~ of | map(attribute='window') | max) }}
                {%- if not loop.last %} or {% endif -%}
                {%- endfor -%}
            )
            {%- endif %}
    ),
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
    {%- if column.is_amount -%} {{ amount(expression ~ ' / 10000') }}
    {%- else -%} cast({{ expression }} as bigint)
    {%- endif -%}
{%- endmacro %}


{% macro _measured_on_a_day(group, facts, columns) -%}
    {{ _in_reach(group, facts, columns) }}

    {{ group }}_measured as (
        select
            {{ first_date() }} as snapshot_date,
            customer_key
            {%- for c in columns %},
            {{ _result(c, _on_the_first_day(c)) }} as {{ c.name }}
            {%- endfor %}
        from {{ group }}_in_reach
        group by customer_key
    )
{%- endmacro %}

{# A measure on the first requested day, as an aggregate of facts that are known on it. #}
{% macro _on_the_first_day(column) -%}
    {%- set tests = [column.condition] if column.condition else [] -%}
    {%- if column.is_later or column.from -%}{%- do tests.append(column.age ~ ' >= ' ~ column.from) -%}{%- endif -%}
    {%- if column.until -%}{%- do tests.append('coalesce(' ~ column.until ~ ' > first_date, true)') -%}{%- endif -%}
    {%- if column.things == [column.clock] and column.window is not none -%}
        {{ return(_day_count(column, tests)) }}
    {%- endif -%}
    {%- if column.window is not none -%}{%- do tests.append(column.age ~ ' < ' ~ column.window) -%}{%- endif -%}
    {%- set test = tests | join(' and ') or 'true' -%}
    {%- if column.things -%}count(distinct {{ one_of(column.things) }}) filter (where {{ test }})
    {%- elif column.sum -%}{{ sum_if(column.sum, test) }}
    {%- else -%}count(case when {{ test }} then 1 end)
    {%- endif -%}
{%- endmacro %}

{#
    Different days are bits of numbers, 60 to a number: one pass for all windows, and no row for a day.
    DuckDB counts bits in 8 bits, whose sum overflows beyond 127 days.
#}
{% macro _day_count(column, tests) -%}
    {%- for first in range(0, column.window, 60) -%}
        {%- set within = tests + [column.age ~ ' between ' ~ first ~ ' and ' ~ (first + 59)] -%}
        {{ ' + ' if not loop.first }}coalesce(cast(bit_count(
                {{- '' }}bit_or(case when {{ within | join(' and ') }} then {{ power_of_two(column.age ~ ' - ' ~ first) }} end)
                {%- if column.window < first + 60 %} & {{ 2 ** (column.window - first) - 1 }}{% endif -%}
            ) as integer), 0)
    {%- endfor -%}
{%- endmacro %}


{# Some columns as one value, to be counted once. #}
{% macro one_of(columns) -%}
    {{ return(columns[0] if columns | length == 1 else adapter.dispatch('one_of')(columns)) }}
{%- endmacro %}

{% macro default__one_of(columns) -%}
    row({{ columns | join(', ') }})
{%- endmacro %}

{% macro spark__one_of(columns) -%}
    struct({{ columns | join(', ') }})
{%- endmacro %}

{# The whole number in which that bit alone is set, the lowest being 0. #}
{% macro power_of_two(bit) -%}
    {{ return(adapter.dispatch('power_of_two')(bit)) }}
{%- endmacro %}

{% macro default__power_of_two(bit) -%}
    (cast(1 as bigint) << ({{ bit }}))
{%- endmacro %}

{% macro spark__power_of_two(bit) -%}
    shiftleft(cast(1 as bigint), {{ bit }})
{%- endmacro %}


{#
    Most of what a range costs is a running sum, by the number. So two counts share a number, of which
    the second is worth 2^26 of the first: exact, as no customer has 67 million facts.
#}
{% macro _measured_over_a_range(group, facts, columns, dense) -%}
    {%- set plan = _range_plan(columns) -%}
    {{ _in_reach(group, facts, columns) }}

    {{ group }}_facts as (
        select
            customer_key,
            first_date,
            last_date
            {%- for enter in plan.enters %},
            case when {{ enter }} <= last_date then greatest({{ enter }}, first_date) end as enter_{{ loop.index0 }}
            {%- endfor %}
            {%- for exit in plan.exits %},
            {{ exit }} as exit_{{ loop.index0 }}
            {%- endfor %}
            {%- for term in plan.terms %},
            {{ 'sum(' ~ term ~ ')' if dense else term }} as term_{{ loop.index0 }}
            {%- endfor %}
            {%- for thing in plan.things %},
            {{ thing }} as thing_{{ loop.index0 }}
            {%- endfor %}
        from {{ group }}_in_reach
        {%- if dense %}
        group by customer_key, first_date, last_date, known_date, superseded_date, {{ plan.apart | join(', ') }}
        {%- endif %}
    ),

    {{ group }}_begun as (
        select
            1 as snapshot_number,
            customer_key
            {%- for number in plan.numbers %},
            {% for c in number -%}
            {{ ' + ' if not loop.first }}cast({{ _on_the_first_day(c) }} as double) * {{ c.worth }}
            {%- endfor %} as number_{{ loop.index0 }}
            {%- endfor %}
        from {{ group }}_in_reach
        where known_date <= first_date
        group by customer_key
    ),

    {{ _pieces(group, columns | selectattr('things') | list) }}
    {{ group }}_changes as (
        {{ _changes(group, plan, columns) }}
    ),

    -- A change between two requested days is seen on the later one.
    {{ group }}_steps as (
        select * from {{ group }}_begun
        union all
        select
            calendar.snapshot_number,
            changes.customer_key
            {%- for number in plan.numbers %},
            sum(changes.number_{{ loop.index0 }}) as number_{{ loop.index0 }}
            {%- endfor %}
        from {{ group }}_changes as changes
        inner join ({{ calendar() }}) as calendar
            on changes.change_date = calendar.calendar_date
        group by calendar.snapshot_number, changes.customer_key
    ),

    {{ group }}_sums as (
        select
            snapshot_number as from_number,
            customer_key,
            {{ until_number() }}
            {%- for number in plan.numbers %},
            coalesce(sum(number_{{ loop.index0 }}) over (
                partition by customer_key
                order by snapshot_number
                rows between unbounded preceding and current row
            ), 0) as number_{{ loop.index0 }}
            {%- endfor %}
        from {{ group }}_steps
    ),

    {{ group }}_states as (
        select
            from_number,
            customer_key,
            until_number
            {%- for number in plan.numbers %}
            {%- set shared = 'number_' ~ loop.index0 %}
            {%- set high = 'floor(' ~ shared ~ ' / ' ~ number[-1].worth ~ ')' %}
            {%- for c in number %},
           {{ _result(c, shared if number | length == 1 else high if loop.last else shared ~ ' - ' ~ high ~ ' * ' ~ number[-1].worth) }}
                as {{ c.name }}
            {%- endfor %}
            {%- endfor %}
        from {{ group }}_sums
    ),

    {{ group }}_measured as (
        {{ on_each_day(group ~ '_states', columns | map(attribute='name')) }}
    )
{%- endmacro %}


{#
    What the SQL of a range needs. enters, exits, terms, things: expressions, each once; a column
    names those that it is made of. apart: in what dense facts differ that are not added up. numbers:
    the columns that share one, and what each is worth in it.
#}
{% macro _range_plan(columns) -%}
    {%- set plan = {'enters': [], 'exits': [], 'terms': [], 'things': [], 'apart': [], 'numbers': []} -%}
    {%- set counts = columns | rejectattr('sum') | list -%}
    {%- for c in columns -%}
        {%- set enter = 'known_date' -%}
        {%- if c.is_later or c.from -%}
            {%- set begin = add_days(c.clock, c.from) if c.from else c.clock -%}
            {%- set enter = 'case when ' ~ c.clock ~ ' is not null then greatest(known_date, ' ~ begin ~ ') end' -%}
        {%- endif -%}
        {%- set ends = ['superseded_date'] -%}
        {%- if c.window is not none -%}{%- do ends.append(add_days(c.clock, c.window)) -%}{%- endif -%}
        {%- if c.until -%}{%- do ends.append('coalesce(' ~ c.until ~ ', ' ~ end_of_time() ~ ')') -%}{%- endif -%}
        {%- set term = c.sum or _as_number('case when ' ~ (c.condition or 'true') ~ ' then 1 else 0 end') -%}
        {%- set things = [] -%}
        {%- for column in c.things -%}{%- do things.append('thing_' ~ _once(plan.things, column)) -%}{%- endfor -%}
        {%- for column in [c.clock, c.until] + c.things if column -%}{%- do _once(plan.apart, column) -%}{%- endfor -%}
        {%- set is_second = not c.sum and counts.index(c) % 2 == 1 -%}
        {%- do c.update({
            'enter': 'enter_' ~ _once(plan.enters, enter),
            'exit': 'exit_' ~ _once(plan.exits, 'least(' ~ ends | join(', ') ~ ')'),
            'term': 'term_' ~ _once(plan.terms, term | trim),
            'keys': things | join(', '),
            'worth': 67108864 if is_second else 1,
        }) -%}
        {%- if is_second -%}
            {%- do (plan.numbers | selectattr('0', 'sameas', counts[counts.index(c) - 1]) | first).append(c) -%}
        {%- else -%}{%- do plan.numbers.append([c]) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(plan) }}
{%- endmacro %}


{#
    CTEs `<group>_<column>_pieces`: per customer and thing that is counted once, the days over which
    it is in sight: whole, or in pieces.
#}
{% macro _pieces(group, columns) -%}
    {%- for keys, counted in columns | groupby('keys') -%}
    {%- set things = group ~ '_things_' ~ loop.index0 -%}
    {{ things }} as (
        select
            customer_key,
            first_date,
            last_date,
            {{ keys }}
            {%- for c in counted %}
            {%- set is_seen = c.term ~ ' > 0 and ' ~ c.exit ~ ' > ' ~ c.enter %},
            min(case when {{ is_seen }} then {{ c.enter }} end) as enter_{{ loop.index0 }},
            max(case when {{ is_seen }} then {{ c.exit }} end) as exit_{{ loop.index0 }},
            -- Intervals that all hold one day, or end where others begin, are one.
            max(case when {{ is_seen }} then {{ c.enter }} end)
            <= min(case when {{ is_seen }} then {{ c.exit }} end) as is_whole_{{ loop.index0 }}
            {%- endfor %}
        from {{ group }}_facts
        group by customer_key, first_date, last_date, {{ keys }}
    ),

    {% for c in counted -%}
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
                    partition by facts.customer_key, {{ keys.replace('thing_', 'facts.thing_') }}
                    order by facts.{{ c.enter }}, facts.{{ c.exit }}
                    rows between unbounded preceding and 1 preceding
                ) as covered_date
            from {{ group }}_facts as facts
            inner join {{ things }} as things
                on
                    facts.customer_key = things.customer_key
                    {%- for key in keys.split(', ') %}
                    and facts.{{ key }} = things.{{ key }}
                    {%- endfor %}
            where
                not things.is_whole_{{ loop.index0 }}
                and facts.{{ c.term }} > 0
                and facts.{{ c.exit }} > facts.{{ c.enter }}
        ) as covered
        where exit_date > coalesce(covered_date, enter_date)
    ),

    {% endfor -%}
    {%- endfor -%}
{%- endmacro %}


{# What enters after the first day, and what leaves. #}
{% macro _changes(group, plan, columns) -%}
    {%- set changes = [] -%}
    {%- for enter, entering in columns | rejectattr('things') | groupby('enter') -%}
        {%- set lasting = [] -%}
        {%- for exit, leaving in entering | groupby('exit') -%}
            {%- do lasting.append(exit ~ ' > ' ~ enter) -%}
            {%- do changes.append(
                _change(group ~ '_facts', exit, plan, leaving, '-{term}')
                ~ ' where ' ~ exit ~ ' > ' ~ enter ~ ' and ' ~ exit ~ ' <= last_date'
            ) -%}
        {%- endfor -%}
        {%- do changes.append(
            _change(group ~ '_facts', enter, plan, entering, 'case when {exit} > {enter} then {term} else 0 end')
            ~ ' where ' ~ enter ~ ' > first_date and (' ~ lasting | join(' or ') ~ ')'
        ) -%}
    {%- endfor -%}
    {%- for c in columns if c.things -%}
        {%- for date, change in [('enter_date', 1), ('exit_date', -1)] -%}
            {%- do changes.append(
                _change(group ~ '_' ~ c.name ~ '_pieces', date, plan, [c], _as_number(change))
                ~ ' where ' ~ date ~ ' > first_date and ' ~ date ~ ' <= last_date'
            ) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ changes | join('\n        union all\n        ') }}
{%- endmacro %}

{# One kind of change on a day: what it adds to some columns; nothing to the others. #}
{% macro _change(relation, date, plan, columns, change) -%}
        select
            customer_key,
            {{ date }} as change_date
            {%- for number in plan.numbers %},
            {% for c in number if c in columns -%}
            {{ ' + ' if not loop.first }}{{ change.replace('{exit}', c.exit).replace('{enter}', c.enter).replace('{term}', c.term) }} * {{ c.worth }}
            {%- else -%} null
            {%- endfor %} as number_{{ loop.index0 }}
            {%- endfor %}
        from {{ relation }}
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


{# The columns that a group of measures has. #}
{% macro measure_columns(group) -%}
    {{ return(_window_columns(group) | map(attribute='name') | list) }}
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
