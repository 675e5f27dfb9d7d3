"""`serve --workers N`: a supervisor, and the workers that it starts. The supervisor imports no gRPC.

supervisor  starts workers, replaces those that end, and stops them
supervise   the whole service of a supervisor: ports, bundled servers, metrics, workers, signals
process     a worker, as its supervisor sees it
worker      a worker, as it sees itself
link        the messages between the two
ports       the ports that workers share
"""
