"""One folder per stage of the loop, in the order in which data flows."""
