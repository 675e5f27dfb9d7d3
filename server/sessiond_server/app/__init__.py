"""Composes the service from its parts. Only this package imports all of them.

service      starts everything in order, and stops it in reverse
parts        the parts behind the wire: store, storage of attachments, bus, hub, cache, batcher
database, blobs, bus, cache, metrics
             one external service each, opened according to the settings
summariser   what makes summaries, as the settings name it
limits       the limits of each part, from the settings
credentials  keys and certificates, reloaded while the service runs
health       what health reports besides the state of the store
background   the background tasks of the service
signals      the operator's signals
bundled      the bundled servers
summary      what a running service tells its operator
workers      several processes that serve, and their supervisor
errors       why the service cannot start, or lacks a part
"""
