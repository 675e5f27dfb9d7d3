"""Tests of the Python client library, through a real channel."""
