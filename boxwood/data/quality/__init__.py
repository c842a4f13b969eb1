"""Checks, warnings, repair and statistics of data sets."""
