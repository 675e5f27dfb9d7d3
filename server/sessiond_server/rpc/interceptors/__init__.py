"""One concern each. Their order, with the reasons, is `ORDER` of rpc/server.py."""
