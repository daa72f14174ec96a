"""Daily churn scores and the list of whom to talk to."""
