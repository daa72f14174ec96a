"""Campaigns: eligibility, assignment, cohorts, outcomes."""
