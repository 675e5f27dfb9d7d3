"""Agno's AgentOS with one agent and its sessions in Postgres, served by uvicorn.

agentos_server.py DSN PORT
"""
# What it imports is only in the environment that it runs in.
# mypy: ignore-errors

import sys

import uvicorn
from agno.agent import Agent
from agno.db.postgres import AsyncPostgresDb
from agno.os import AgentOS

db = AsyncPostgresDb(db_url=sys.argv[1])
system = AgentOS(agents=[Agent(id="bench", name="bench", db=db)], telemetry=False)
uvicorn.run(system.get_app(), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning", access_log=False)
