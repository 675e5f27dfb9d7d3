"""Search, without I/O: what a text is made of, what a query means, and whether one matches the other."""
