"""Daily customer segments."""
