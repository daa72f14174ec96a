"""Who changes because of a contact: learners, curves, and the comparison that decides.

What belongs here: pure functions and estimators over arrays of one randomised comparison, one arm
against the control. What does not: campaigns and tables (ml/campaigns), whom to contact under a
budget (ml/targeting.py).
"""
