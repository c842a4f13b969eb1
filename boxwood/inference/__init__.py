"""A trained detector at work: called with pictures, run over folders and videos, measured on a data set."""
