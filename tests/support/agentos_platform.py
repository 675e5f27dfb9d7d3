"""AgentOS itself, with its sessions in Postgres, and with one path more: what agents would have written, for they alone
write runs.

agentos_platform.py DSN PORT
"""
# What it imports is only in the environment that it runs in.
# mypy: ignore-errors

import sys

import uvicorn
from agno.agent import Agent
from agno.db.postgres import AsyncPostgresDb
from agno.db.utils import deserialize_session_by_type
from agno.os import AgentOS
from fastapi import Request

db = AsyncPostgresDb(id="main", db_url=sys.argv[1])
system = AgentOS(agents=[Agent(id="helper", name="helper", db=db)], telemetry=False)
app = system.get_app()


@app.post("/written-by-agents")
async def written_by_agents(request: Request) -> dict:
    written = await request.json()
    runs = written["session"].pop("runs")
    await db.upsert_session(deserialize_session_by_type(written["session"]))
    for place, run in enumerate(runs):
        await db.upsert_run(run, written["session"]["session_id"], run_index=place)
    return {}


uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[2]), log_level="critical", access_log=False)
