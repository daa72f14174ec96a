"""Statistics of randomised comparisons: effects, sample ratios, power, looks, shrinkage.

What belongs here: formulas over arrays and moments. What does not: campaigns, customers, tables.
"""
