"""Metrics for Prometheus. Nothing is imported here: a supervisor of workers needs the port and the totals only.

sources  the metrics of one process, from its parts
port     the port for scrapes
totals   one page of the metrics of several workers
"""
