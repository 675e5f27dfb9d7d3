"""The `/sessions` contract of the agent platform AgentOS, and of the Go service that stood beside it, over sessiond.

platform.py    finds the operation of a path, and answers
operations.py  what each operation does, by calls of the gRPC port
history.py     reads the runs of a session, and writes those that a session is created with
pages.py       page numbers over lists that go on from a token
parameters.py, bodies.py   what callers send, checked as the platform checks it
sessions.py, runs.py, run_views.py, messages.py   from our resources to the platform's JSON, and back
refusals.py    errors in the forms of both
"""
