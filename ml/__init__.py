"""The science: pure functions and estimators over frames. Imports no Dagster, knows no paths."""
