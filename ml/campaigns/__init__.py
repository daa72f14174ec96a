"""Campaigns as experiments: definition, eligibility, assignment, cohort, export, outcome.

What belongs here: pure functions over frames. What does not: files, databases, clocks.
"""
