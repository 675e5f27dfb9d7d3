"""`make bench`: what sessiond costs beside an empty handler, and beside what a team would otherwise use."""
