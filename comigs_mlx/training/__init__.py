"""Losses, the two levels of the bilevel problem, the loop, evaluation, exact resume."""
