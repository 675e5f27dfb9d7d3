"""The composition: what `sessiond serve` is made of. The only place that knows all parts.

service      the order in which all starts, and in reverse stops
parts        what the wire serves from: store, storage of attachments, bus, hub, cache, batcher
database, blobs, bus, cache, metrics
             one outside thing each: opened as the settings say
limits       the settings as the limits of each part
credentials  keys and certificates while the service runs
health       what health says beside what the store says
background   the tasks that run while the service does
signals      the operator's signals
errors       why the service cannot start or be of full use
"""
