"""The rules: what a command does to a session, or why it is refused. Pure: state and clock come in, events go out.

Each rule checks everything before it changes anything, so that a refusal leaves the state as it was.
"""

from collections.abc import Callable

from sessiond_server.domain import commands as c
from sessiond_server.domain.attachments import rules as attachment_rules
from sessiond_server.domain.messages import rules as message_rules
from sessiond_server.domain.runs import rules as run_rules
from sessiond_server.domain.sessions import rules as session_rules
from sessiond_server.domain.tool_calls import rules as tool_call_rules

RULES: dict[type, Callable[..., c.Outcome]] = {
    c.UpdateSession: session_rules.update,
    c.ActivateSession: session_rules.change_status,
    c.SuspendSession: session_rules.change_status,
    c.ResumeSession: session_rules.change_status,
    c.EndSession: session_rules.end,
    c.ExpireSession: session_rules.expire,
    c.TouchSession: session_rules.touch,
    c.DeleteSession: session_rules.delete,
    c.AppendMessages: message_rules.append,
    c.RedactMessage: message_rules.redact,
    c.BeginRun: run_rules.begin,
    c.HeartbeatRun: run_rules.heartbeat,
    c.FinishRun: run_rules.finish,
    c.CancelRun: run_rules.cancel,
    c.RequestToolCall: tool_call_rules.request,
    c.DecideToolCall: tool_call_rules.decide,
    c.StartToolCall: tool_call_rules.start,
    c.EndToolCall: tool_call_rules.end,
    c.CancelToolCall: tool_call_rules.cancel,
    c.CompleteUpload: attachment_rules.complete,
    c.DeleteAttachment: attachment_rules.delete,
}
"""The rule of every action on a session that exists, taking (step, state, action). `session_rules.create` stands apart:
it makes the state."""
