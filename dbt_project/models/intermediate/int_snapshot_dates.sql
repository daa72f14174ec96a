-- The requested days: the only thing that selects what the marts hold.
{{ snapshot_spine() }}
