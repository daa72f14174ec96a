"""Great Expectations suites as code, and the audit that runs them. Imports no Dagster."""
