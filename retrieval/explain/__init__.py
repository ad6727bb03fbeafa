"""Why: heat maps of what a network looked at, shares of a score, and tests of whether to believe them."""
