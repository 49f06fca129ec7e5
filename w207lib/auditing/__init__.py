"""Checks of data, models and reported numbers, and what they find."""
