"""Generated pictures: a data set without a download."""
