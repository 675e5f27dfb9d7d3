"""The web door: JSON over HTTP and server-sent events in front of the gRPC port.

rules.py      the table: which request is which RPC
paths.py      from a path to a rule
queries.py    from query parameters to fields
access_tokens.py  session tokens in addresses
requests.py   from an HTTP request to the message of an RPC
json_texts.py JSON texts from and to messages
answers.py    from a message to an HTTP answer
problems.py   refusals, as application/problem+json
events.py     streams, as server-sent events
exchange.py   a request and its answer, as ASGI has them
files.py      bytes of attachments, up and down
ranges.py     headers of files and of parts of them
run_streams.py  a run as other front ends read it
ai_sdk.py     in the words of Vercel's AI SDK
ag_ui.py      in those of AG-UI
origins.py    which web pages may call
health.py     whether the server serves
assets.py     files of the console (console/), which need no key
door.py       the ASGI application
server.py     the port: connections, their limits, start and stop
"""
