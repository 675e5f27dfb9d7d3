"""Summaries that the service makes by itself.

contract     what a summariser is: the interface of plugs
queue        the contract of what remembers which sessions are due
following    notes in the feeds which sessions become due
coverage     what of a session a summary covers
transcript   a conversation as text
extractive   the summariser without a model
chat         the summariser that asks a server with the chat-completions interface
worker       summarises the sessions that are due
"""
