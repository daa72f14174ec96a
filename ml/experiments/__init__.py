"""Statistics of randomised comparisons: two-sample effects, sample-ratio check, power.

What belongs here: formulas over arrays and moments. What does not: campaigns, customers, tables.
"""
