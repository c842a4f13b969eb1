"""Files that were damaged, or made to harm, at every door by which a file enters."""
