"""The rules of drafts, patches, documents, labels, deletions, batches, ids that are taken again and optimistic writes,
each broken at one place: each test that is named beside it fails then, and passes with nothing broken.

A mutant is a place of the source and what stands there instead (tests/support/mutation.py). Where its place is gone,
the rule has moved, and the mutant goes with it.
"""

import json
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Final

import pytest

from tests.support.mutation import mutated
from tests.support.rows import table

ROOT: Final = Path(__file__).parents[2]


class Mutant:
    def __init__(self, file: str, old: str, new: str, module: str, *tests: str) -> None:
        """`file`: below server/sessiond_server, has the text `old` once. `tests`: of the module, each with all its
        cases or with one in brackets. Of each, at least one case must fail."""
        self.place = (file, old, new)
        self.tests = [f"{module}::{test}" for test in tests]


DRAFTS = "tests/unit/test_drafts.py"
HUB = "tests/events/test_hub.py"
CONTENT = "tests/unit/test_content.py"
DOCUMENTS = "tests/conformance/test_documents.py"
CALLS = "tests/unit/test_tool_calls.py"
SUMMARIES = "tests/unit/test_summaries.py"
CONTEXT = "tests/unit/test_context.py"
CONTEXTS = "tests/conformance/test_contexts.py"
HISTORY = "tests/conformance/test_history.py"
HELD = "tests/conformance/test_postgres_documents.py"
SELECTION = "tests/unit/test_selection.py"
DELETION = "tests/conformance/test_deletion.py"
REUSE = "tests/conformance/test_reused_ids.py"
REWINDS = "tests/conformance/test_rewinds.py"
BATCHES = "tests/rpc/test_batches.py"
TOGETHER = "tests/unit/test_update_and_append.py"
REQUESTS = "tests/unit/test_event_requests.py"
OPTIMISTIC = "tests/conformance/test_optimistic.py"

MUTANTS = {
    "optimistic_head_not_compared": Mutant(
        "postgres/write.sql",
        "when h.version <> k.known_version or h.core <> k.known_core\n",
        "when false\n",
        OPTIMISTIC,
        "test_another_writer_was_first",
        "test_an_id_that_is_taken_again",
    ),
    "optimistic_version_alone": Mutant(
        "postgres/write.sql",
        "h.version <> k.known_version or h.core <> k.known_core",
        "h.version <> k.known_version",
        OPTIMISTIC,
        "test_a_head_of_the_same_version_from_another_history",
    ),
    "optimistic_lease_not_compared": Mutant(
        "postgres/write.sql",
        "or h.lease_expire_time is distinct from k.known_lease_expire_time then",
        "then",
        OPTIMISTIC,
        "test_a_lease_that_moved_and_a_run_that_was_taken_over",
    ),
    "optimistic_time_not_compared": Mutant(
        "postgres/write.sql",
        "when h.now not between",
        "when h.now is null and h.now not between",
        OPTIMISTIC,
        "test_the_clock_of_the_database_decides",
        "test_a_statement_that_the_server_runs_late_writes_nothing",
    ),
    "optimistic_map_not_compared": Mutant(
        "postgres/write.sql",
        "<> (select homes_version from placement) then",
        "<> (select homes_version from placement) and false then",
        OPTIMISTIC,
        "test_a_tenant_that_leaves_while_the_statement_waits",
    ),
    "optimistic_without_lock": Mutant(
        "postgres/write.sql",
        "where s.tenant_id = k.tenant_id and s.session_id = k.session_id\n      for update skip locked",
        "where s.tenant_id = k.tenant_id and s.session_id = k.session_id",
        OPTIMISTIC,
        "test_a_session_that_a_transaction_holds_is_waited_for_with_locks",
    ),
    "optimistic_row_made_anew": Mutant(
        "postgres/write.sql",
        "from found where outcome = 'written'\n  on conflict",
        "from found where outcome in ('written', 'changed')\n  on conflict",
        OPTIMISTIC,
        "test_another_writer_was_first",
    ),
    "optimistic_head_believed_after_an_error": Mutant(
        "postgres/optimistic.py",
        "        self._heads.drop(attempt.heads)\n",
        "",
        OPTIMISTIC,
        "test_a_connection_lost_in_the_statement",
        "test_a_statement_goes_on_without_its_caller",
    ),
    "optimistic_refusal_of_a_stale_head": Mutant(
        "postgres/optimistic.py",
        "            if not isinstance(result, MessagesAppended)\n",
        "            if result is None\n",
        OPTIMISTIC,
        "test_refusals_are_those_of_the_locked_path",
    ),
    "optimistic_until_the_last_moment": Mutant(
        "postgres/optimistic.py",
        "kept.check_time_us < now_us + MARGIN_US",
        "kept.check_time_us < now_us",
        OPTIMISTIC,
        "test_what_is_about_to_expire_is_decided_with_locks",
    ),
    "optimistic_for_every_user": Mutant(
        "postgres/optimistic.py",
        'if kept is None or command.scope.user_id not in ("", kept.head.user_id):',
        "if kept is None:",
        OPTIMISTIC,
        "test_refusals_are_those_of_the_locked_path",
    ),
    "optimistic_with_more_rows_than_it_writes": Mutant(
        "postgres/optimistic.py",
        "if any(getattr(decision.writes, name) for name in _MORE_WRITES):",
        "if commands is None:",
        OPTIMISTIC,
        "test_appends_that_need_more_than_heads_take_locks",
    ),
    "draft_kept_for_ever": Mutant(
        "events/drafts.py",
        "message_id].last < self._limits.lifetime:",
        "message_id].last < 10**9:",
        DRAFTS,
        "test_draft_ends_at_its_lifetime",
    ),
    "draft_never_interrupted": Mutant(
        "events/drafts.py",
        "if time - draft.last < self._limits.silence:",
        "if time >= 0:",
        DRAFTS,
        "test_draft_is_interrupted_after_its_silence_or_by_its_writer",
    ),
    "draft_larger_than_its_bound": Mutant(
        "events/drafts.py",
        "draft.size + size > self._limits.draft_bytes",
        "draft.size > self._limits.draft_bytes",
        DRAFTS,
        "test_draft_keeps_its_beginning_up_to_the_bound",
    ),
    "draft_smaller_than_its_bound": Mutant(
        "events/drafts.py",
        "draft.size + size > self._limits.draft_bytes",
        "draft.size + size >= self._limits.draft_bytes",
        DRAFTS,
        "test_draft_keeps_its_beginning_up_to_the_bound",
    ),
    "session_keeps_more_drafts": Mutant(
        "events/drafts.py",
        "len(kept) > limits.session_drafts",
        "len(kept) > limits.session_drafts + 1",
        DRAFTS,
        "test_session_keeps_its_newest_drafts",
    ),
    "tenant_takes_the_room_of_all": Mutant(
        "events/drafts.py",
        "> limits.tenant_bytes:",
        "> limits.total_bytes:",
        DRAFTS,
        "test_flood_of_drafts_costs_its_sender_only",
    ),
    "gap_in_a_draft_joined": Mutant(
        "events/drafts.py",
        "if offset == first + len(text) and",
        "if",
        DRAFTS,
        "test_gap_and_repetition_are_not_kept",
    ),
    "draft_shown_behind_its_message": Mutant(
        "events/watched.py",
        "self._sessions.drafts.still_open(self.channel.key, late.data)",
        "late.data",
        HUB,
        "test_draft_whose_message_follows_the_snapshot_is_not_shown_behind_it",
    ),
    "draft_outlives_its_message": Mutant(
        "events/drafts.py",
        "if event.message_id is not None:",
        "if event.message_id == '':",
        HUB,
        "test_write_does_not_wait_for_drafts_and_a_store_that_is_away_keeps_them",
    ),
    "draft_outlives_its_session": Mutant(
        "events/drafts.py",
        "elif event.type in _OVER:",
        "elif event.type < 0:",
        HUB,
        "test_drafts_of_a_deleted_session_are_gone",
        "test_drafts_of_an_ended_session_are_gone_in_every_process",
    ),
    "patches_without_number": Mutant(
        "domain/sessions/content.py",
        "self.patches <= policy.content_patches",
        "self.patches >= 0",
        CONTENT,
        "test_the_whole_content_is_stored_after_so_many_patches",
    ),
    "one_patch_less": Mutant(
        "domain/sessions/content.py",
        "self.patches <= policy.content_patches",
        "self.patches < policy.content_patches",
        CONTENT,
        "test_the_whole_content_is_stored_after_so_many_patches",
    ),
    "patches_larger_than_the_whole": Mutant(
        "domain/sessions/content.py",
        "and self.patch_bytes <= self.whole_bytes",
        "",
        CONTENT,
        "test_the_whole_content_is_stored_once_patches_are_larger_than_it",
    ),
    "patches_of_small_contents": Mutant(
        "domain/sessions/content.py",
        "and self.whole_bytes >= policy.least_patched_bytes",
        "",
        CONTENT,
        "test_a_small_content_is_stored_whole",
    ),
    "whole_at_the_least_size": Mutant(
        "domain/sessions/content.py",
        "self.whole_bytes >= policy.least_patched_bytes",
        "self.whole_bytes > policy.least_patched_bytes",
        CONTENT,
        "test_a_content_of_exactly_the_least_size_is_patched",
    ),
    "content_of_the_least_size_read_for_a_patch": Mutant(
        "domain/sessions/content.py",
        "sizes.whole_bytes < policy.least_patched_bytes",
        "sizes.whole_bytes <= policy.least_patched_bytes",
        CONTENT,
        "test_a_content_of_exactly_the_least_size_is_patched",
    ),
    "patched_content_above_its_limit": Mutant(
        "domain/sessions/content.py",
        "return self.total <= CONTENT_BYTES and all(",
        "return all(",
        CONTENT,
        "test_a_patch_that_brings_the_content_above_its_limit_is_refused",
    ),
    "patched_object_above_its_limit": Mutant(
        "domain/sessions/rules.py",
        "if getattr(content, name).ByteSize() > OBJECT_BYTES[name]:",
        "if not name:",
        CONTENT,
        "test_a_patch_that_brings_an_object_above_its_limit_is_refused",
    ),
    "patched_total_not_checked": Mutant(
        "domain/sessions/rules.py",
        'session_validation.content_size(found, f"{action.prefix}session", content.ByteSize())',
        "",
        CONTENT,
        "test_a_patch_that_brings_the_content_above_its_limit_is_refused",
    ),
    "removed_member_of_a_read_content_stays": Mutant(
        "domain/sessions/content.py",
        "patch.removed_keys.extend(action.remove_keys)",
        "",
        "tests/unit/test_update_and_append.py",
        "test_members_replace_whole_and_null_is_a_value",
    ),
    "document_version_not_compared": Mutant(
        "domain/documents/rules.py",
        "if write.expected_version not in (None, version):",
        "if write.expected_version == -1:",
        DOCUMENTS,
        "test_expected_versions[memory]",
    ),
    "summary_of_what_is_not_there": Mutant(
        "domain/summaries/rules.py",
        "<= core.version:",
        "<= core.version + 1:",
        SUMMARIES,
        "test_summary_covers_what_is_there",
    ),
    "summary_of_a_former_session": Mutant(
        "domain/summaries/rules.py",
        "if not core.base_version < given",
        "if not 0 < given",
        SUMMARIES,
        "test_summary_of_a_former_session_with_the_id_is_refused",
    ),
    "summary_that_costs_nothing": Mutant(
        "domain/fold.py",
        'if summary.HasField("usage"):',
        "if not summary.text:",
        SUMMARIES,
        "test_summary_is_an_event_with_what_was_given_and_who_made_it",
    ),
    "call_without_a_result": Mutant(
        "domain/context/conversation.py",
        "if unit.open_calls:",
        "if unit.seq < 0:",
        CONTEXT,
        "TestRepairs::test_calls_without_results_are_completed",
        "test_any_log_gives_a_context_that_is_accepted",
    ),
    "result_without_its_call": Mutant(
        "domain/context/conversation.py",
        "one.message.role) == _TOOL or",
        "one.message.role) == 99 or",
        CONTEXT,
        "test_any_log_gives_a_context_that_is_accepted",
    ),
    "result_for_the_first_of_two_calls": Mutant(
        "domain/context/conversation.py",
        "waiting[call_id].pop()",
        "waiting[call_id].pop(0)",
        CONTEXT,
        "TestRepairs::test_of_calls_with_one_id_the_latest_gets_the_result",
    ),
    "exact_count_of_a_changed_message": Mutant(
        "domain/context/conversation.py",
        'changed.ClearField("token_count")',
        'changed.ClearField("metadata")',
        CONTEXT,
        "TestBudget::test_exact_counts_are_believed_while_the_message_is_whole",
    ),
    "beginning_that_moves_with_every_message": Mutant(
        "domain/context/plan.py",
        "return (before ^ seq).bit_length()",
        "return 0 * before * seq",
        CONTEXT,
        "test_beginning_stays_and_moves_in_steps",
    ),
    "question_without_the_work_before_it": Mutant(
        "domain/context/plan.py",
        "if earlier is not None and _sparse(",
        "if earlier is None and _sparse(",
        CONTEXT,
        "test_question_after_a_turn_that_is_too_long_comes_with_the_newest_of_that_turn",
    ),
    "context_with_messages_of_a_later_version": Mutant(
        "rpc/context/history.py",
        "if message.seq >= self.before:",
        "if message.seq < 0:",
        CONTEXTS,
        "test_messages_appended_meanwhile_are_not_in_an_older_version[memory]",
    ),
    "context_that_forgets_the_first_messages": Mutant(
        "rpc/context/history.py",
        "if newest.more:",
        "if newest.version < 0:",
        CONTEXTS,
        "test_first_messages_of_the_system_stand_for_a_prompt[memory]",
    ),
    "summaries_of_all_tenants": Mutant(
        "postgres/read.sql",
        'where e.tenant_id = $1 collate "POSIX" and e.session_id = $2 collate "POSIX" and e.type = 80 and e.seq < $4',
        "where e.type = 80 and e.seq < $4",
        "tests/conformance/test_summaries.py",
        "test_summaries_stay_and_are_listed_newest_first[postgres]",
    ),
    "approval_ends_a_moment_later": Mutant(
        "domain/tool_calls/rules.py",
        "microseconds(call.expire_time) <= now_us]",
        "microseconds(call.expire_time) < now_us]",
        CALLS,
        "TestExpiry::test_sweeper_ends_an_overdue_call_once_and_says_why",
    ),
    "approved_call_expires": Mutant(
        "domain/runs/work.py",
        "waits = call.status == ToolCallStatus.TOOL_CALL_STATUS_PENDING and call.requires_approval",
        "waits = call.requires_approval",
        CALLS,
        "TestExpiry::test_decided_call_does_not_expire",
    ),
    "overdue_call_is_decided": Mutant(
        "domain/batch.py",
        "if action.with_work or isinstance(command.action, c.ToolCallChange):",
        "if action.with_work:",
        CALLS,
        "TestExpiry::test_action_on_an_overdue_call_finds_it_ended",
    ),
    "late_approval_is_not_told": Mutant(
        "domain/tool_calls/rules.py",
        "    if _has_expired(call):",
        "    if False:",
        CALLS,
        "TestExpiry::test_action_on_an_overdue_call_finds_it_ended",
    ),
    "rejection_taken_for_an_expiry": Mutant(
        "domain/tool_calls/rules.py",
        "        return call.approval.actor == c.ACTOR",
        "        return microseconds(call.expire_time) <= microseconds(call.end_time)",
        CALLS,
        "TestExpiry::test_call_that_a_person_ended_is_not_called_expired",
    ),
    "approval_ends_a_moment_earlier": Mutant(
        "domain/tool_calls/rules.py",
        "microseconds(call.expire_time) <= now_us]",
        "microseconds(call.expire_time) <= now_us + 1]",
        CALLS,
        "TestExpiry::test_sweeper_ends_an_overdue_call_once_and_says_why",
    ),
    "context_of_then_with_the_config_of_now": Mutant(
        "postgres/history.py",
        "await self._chain(scope, session_id, core.content_version)",
        "await self._chain(scope, session_id, version)",
        CONTEXTS,
        "test_context_as_of_a_version_is_what_was_answered_then[postgres]",
    ),
    "context_of_then_with_the_summary_of_now": Mutant(
        "domain/fold.py",
        "    session.summary_seq = summary.seq",
        "    session.summary_seq = session.summary_seq or summary.seq",
        CONTEXTS,
        "test_context_as_of_a_version_is_what_was_answered_then[memory]",
    ),
    "context_of_a_deleted_sessions_place": Mutant(
        "domain/forks/place.py",
        "if not now.base_version < seq <= version:",
        "if not seq <= version:",
        CONTEXTS,
        "test_place_that_the_session_does_not_have_is_refused[memory]",
    ),
    "content_of_then_with_later_patches": Mutant(
        "postgres/read.sql",
        "and e.type < 20 and e.content is not null and e.seq <= $4",
        "and e.type < 20 and e.content is not null",
        CONTEXTS,
        "test_context_as_of_a_version_is_what_was_answered_then[postgres]",
    ),
    "call_of_then_without_its_approval": Mutant(
        "postgres/history.sql",
        "case when e.create_time <= k.time then h.high else e.seq - 1 end",
        "case when e.create_time < k.time then h.high else e.seq - 1 end",
        HISTORY,
        "test_answers_as_of_a_place_are_those_that_were_given_then[postgres]",
    ),
    "run_of_then_with_the_start_that_came_later": Mutant(
        "domain/forks/place.py",
        "if 0 < run.fence <= seq:",
        "if 0 < run.fence:",
        HISTORY,
        "test_answers_as_of_a_place_are_those_that_were_given_then[postgres]",
    ),
    "session_of_then_from_a_core_behind_it": Mutant(
        "postgres/history.sql",
        "(select seq from base), $4 + 1)",
        "(select seq from base) + 1, $4 + 1)",
        HISTORY,
        "test_long_log_folds_from_the_last_core[postgres]",
    ),
    "shared_place_under_the_parents_id": Mutant(
        "postgres/history.py",
        "    core.session_id = key[1]\n",
        "",
        HISTORY,
        "test_fork_answers_as_of_shared_places_as_its_log_folds[postgres]",
    ),
    "rejection_not_told_to_models": Mutant(
        "domain/context/ended_calls.py",
        "    if call.status == ToolCallStatus.TOOL_CALL_STATUS_REJECTED:",
        "    if False:",
        CONTEXT,
        "TestEndedCalls::test_rejected_and_failed_calls_say_why",
    ),
    "end_told_before_its_version": Mutant(
        "domain/context/ended_calls.py",
        "if key in wanted and call.version <= version}",
        "if key in wanted}",
        CONTEXTS,
        "test_call_that_ends_meanwhile_is_open_in_an_older_version[memory]",
    ),
    "first_attempt_counts": Mutant(
        "domain/context/ended_calls.py",
        "            last[seq, call_id] = call",
        "            last.setdefault((seq, call_id), call)",
        CONTEXT,
        "TestEndedCalls::test_last_attempt_counts",
    ),
    "named_message_not_looked_at": Mutant(
        "domain/context/ended_calls.py",
        "named.get(call.message_id, 0) if call.message_id else ",
        "",
        CONTEXT,
        "TestEndedCalls::test_call_belongs_to_the_message_that_it_names",
    ),
    "calls_of_others_read_for_contexts": Mutant(
        "postgres/work.sql",
        "  where sized.bytes <= $8::bigint\n) m on true\n"
        "where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and ($3::text = '' or h.user_id = $3)",
        "  where sized.bytes <= $8::bigint\n) m on true\n"
        "where h.tenant_id = $1 and h.session_id = $2 and h.delete_time is null and $3::text <> 'x'",
        "tests/conformance/test_tool_calls.py",
        "test_tool_calls_are_not_found_for_others",
    ),
    "expired_approval_stays_pending": Mutant(
        "domain/fold.py",
        "in (EventType.EVENT_TYPE_TOOL_CALL_REJECTED, EventType.EVENT_TYPE_TOOL_CALL_EXPIRED):",
        "in (EventType.EVENT_TYPE_TOOL_CALL_REJECTED,):",
        CALLS,
        "TestExpiry::test_sweeper_ends_an_overdue_call_once_and_says_why",
    ),
    "inbox_shows_overdue_calls": Mutant(
        "memory/work.py",
        "and (row.expire_time_us is None or row.expire_time_us > now_us)",
        "",
        "tests/conformance/test_tool_calls.py",
        "test_overdue_approvals_end_once_and_leave_the_inbox[memory]",
    ),
    "document_may_exist_at_version_zero": Mutant(
        "domain/documents/rules.py",
        "not in (None, version):",
        "not in (None, 0, version):",
        DOCUMENTS,
        "test_expected_versions[memory]",
    ),
    "document_versions_begin_anew": Mutant(
        "domain/documents/changes.py",
        "version=1 if before is None else before.version + 1,",
        "version=1 + self.version(key),",
        DOCUMENTS,
        "test_a_document_put_again_is_not_taken_for_the_deleted_one[memory-user]",
        "test_expired_documents_do_not_exist[memory]",
    ),
    "expiry_of_a_document_exclusive": Mutant(
        "domain/documents/rows.py",
        "self.expire_time_us > now_us)",
        "self.expire_time_us >= now_us)",
        "tests/unit/test_documents.py",
        "test_a_document_exists_until_it_is_deleted_or_expires",
    ),
    "document_without_its_ttl": Mutant(
        "domain/documents/changes.py",
        'if given.HasField("ttl") else None',
        "if given.user_readable else None",
        DOCUMENTS,
        "test_expired_documents_do_not_exist[memory]",
    ),
    "documents_outlive_their_session": Mutant(
        "domain/batch.py",
        "self.documents.end_session(*command.key)",
        "",
        DOCUMENTS,
        "test_documents_go_with_their_session[memory]",
    ),
    "document_of_another_users_session": Mutant(
        "memory/documents.py",
        "visible = self._has_session(scope, key[2])",
        "visible = True",
        DOCUMENTS,
        "test_documents_outside_of_the_users_scope_do_not_exist[memory]",
    ),
    "document_of_another_user_read_in_memory": Mutant(
        "memory/documents.py",
        'visible = scope.user_id in ("", key[2])',
        "visible = True",
        DOCUMENTS,
        "test_documents_outside_of_the_users_scope_do_not_exist[memory]",
    ),
    "documents_of_all_tenants": Mutant(
        "postgres/documents.sql",
        "    where documents.tenant_id = $1 and documents.scope = k.scope and documents.scope_id = k.scope_id\n"
        "      and documents.key = k.key\n"
        "      and documents.delete_time is null",
        "    where documents.scope = k.scope and documents.scope_id = k.scope_id\n"
        "      and documents.key = k.key\n"
        "      and documents.delete_time is null",
        DOCUMENTS,
        "test_scopes_and_keys_are_apart[postgres]",
    ),
    "expired_documents_read": Mutant(
        "postgres/documents.sql",
        "      and documents.delete_time is null and (documents.expire_time is null or documents.expire_time > now())\n"
        "      and ($2 = ''",
        "      and documents.delete_time is null\n      and ($2 = ''",
        DOCUMENTS,
        "test_expired_documents_do_not_exist[postgres]",
    ),
    "document_of_another_user_read": Mutant(
        "postgres/documents.sql",
        "k.scope = 3 and k.scope_id = $2",
        "k.scope = 3",
        DOCUMENTS,
        "test_documents_outside_of_the_users_scope_do_not_exist[postgres]",
    ),
    "document_of_another_users_session_read": Mutant(
        "postgres/documents.sql",
        "          and ($2 = '' or h.user_id = $2)\n      ))\n    limit 1\n  ) d\n), sized",
        "      ))\n    limit 1\n  ) d\n), sized",
        DOCUMENTS,
        "test_documents_outside_of_the_users_scope_do_not_exist[postgres]",
    ),
    "locked_document_of_a_hidden_session_shown": Mutant(
        "postgres/locked.py",
        "if held and head_key not in hidden else ()",
        "if held else ()",
        HELD,
        "test_a_held_document_is_not_shown_to_those_who_may_not_see_its_session",
    ),
    "hidden_session_asks_for_locks": Mutant(
        "postgres/locked.py",
        "if write.head_key(command) not in hidden for key",
        "for key",
        HELD,
        "test_a_write_to_a_hidden_session_locks_none_of_its_documents",
    ),
    "label_found_by_its_key": Mutant(
        "domain/messages/marks.py",
        '[f"l{key}={value}"',
        '[f"l{key}="',
        SELECTION,
        "test_marks_are_written_and_removed_with_their_message",
    ),
    "any_label_is_enough": Mutant(
        "domain/messages/selection.py",
        "and all(message.labels",
        "and any(message.labels",
        SELECTION,
        "test_a_message_is_selected_if_it_fulfils_every_field",
    ),
    "until_is_inclusive": Mutant(
        "domain/messages/selection.py",
        "< self.until_mark",
        "<= self.until_mark",
        SELECTION,
        "test_a_message_is_selected_if_it_fulfils_every_field",
    ),
    "from_is_exclusive": Mutant(
        "domain/messages/selection.py",
        "self.from_mark <= marks",
        "self.from_mark < marks",
        SELECTION,
        "test_a_message_is_selected_if_it_fulfils_every_field",
    ),
    "names_not_compared": Mutant(
        "domain/messages/selection.py",
        'and where.name in ("", message.name)',
        "",
        SELECTION,
        "test_a_message_is_selected_if_it_fulfils_every_field",
    ),
    "runs_not_compared": Mutant(
        "domain/messages/selection.py",
        'and where.run_id in ("", message.run_id)',
        "",
        SELECTION,
        "test_a_message_is_selected_if_it_fulfils_every_field",
    ),
    "roles_not_compared": Mutant(
        "domain/messages/selection.py",
        "(not self._roles or message.role in self._roles)",
        "True",
        SELECTION,
        "test_a_message_is_selected_if_it_fulfils_every_field",
    ),
    "deleted_message_keeps_its_content": Mutant(
        "domain/messages/deletion.py",
        "strip(kept, REMAINING)",
        "",
        DELETION,
        "test_deletion_removes_the_content_from_everywhere[memory]",
    ),
    "deleted_message_keeps_unknown_fields": Mutant(
        "domain/messages/deletion.py",
        "message.DiscardUnknownFields()",
        "",
        DELETION,
        "test_fields_of_later_versions_go_with_the_content[memory-delete]",
        "test_fields_of_later_versions_go_with_the_content[memory-redact]",
    ),
    "deleted_content_stays_in_old_events": Mutant(
        "domain/batch.py",
        "if seq <= stored:",
        "if seq < 0:",
        DELETION,
        "test_deletion_removes_the_content_from_everywhere[memory]",
    ),
    "deleted_content_stays_in_events_of_the_batch": Mutant(
        "domain/batch.py",
        "and (left := state.removed.get(row.seq)) is not None:",
        "and (left := state.removed.get(-row.seq)) is not None:",
        DELETION,
        "test_messages_of_one_batch_are_deleted_in_it[memory]",
    ),
    "name_stays_in_events": Mutant(
        "domain/messages/titles.py",
        "state.titles.append(",
        "str(",
        DELETION,
        "test_a_name_leaves_the_log_with_the_message_that_gave_it[memory-False-redact-False]",
        "test_a_name_leaves_the_log_with_the_message_that_gave_it[memory-False-redact-True]",
        "test_a_name_leaves_the_log_with_the_message_that_gave_it[memory-False-delete-False]",
        "test_a_name_leaves_the_log_with_the_message_that_gave_it[memory-False-delete-True]",
    ),
    "name_stays_with_the_session": Mutant(
        "domain/messages/titles.py",
        "if state.core.name == name:",
        "if state.core.name == '':",
        DELETION,
        "test_a_name_leaves_the_log_with_the_message_that_gave_it[memory-False-redact-False]",
        "test_a_name_leaves_the_log_with_the_message_that_gave_it[memory-False-delete-False]",
    ),
    "redaction_leaves_the_name": Mutant(
        "domain/messages/rules.py",
        "gave_name = titles.take_away(state, original.seq, title, inherited=inherited)",
        "gave_name = False",
        DELETION,
        "test_a_name_leaves_the_log_with_the_message_that_gave_it[memory-False-redact-False]",
    ),
    "rewind_hides_its_place": Mutant(
        "domain/rewinds/ranges.py",
        "return (*at_place, (place + 1, seq))",
        "return (*at_place, (place, seq))",
        REWINDS,
        "test_rewind_shows_what_was_visible_at_its_place[memory]",
    ),
    "rewind_without_a_fence": Mutant(
        "domain/rewinds/rules.py",
        "if core.live_run_id and step.command.fence is None:",
        "if False:",
        REWINDS,
        "test_nothing_that_is_hidden_is_live[memory]",
    ),
    "rewind_leaves_calls_open": Mutant(
        "domain/runs/rules.py",
        "if call.seq > place:",
        "if False:",
        REWINDS,
        "test_nothing_that_is_hidden_is_live[memory]",
    ),
    "rewind_restores_the_config": Mutant(
        "domain/rewinds/rules.py",
        "for name in RESTORED:",
        'for name in (*RESTORED, "config"):',
        REWINDS,
        "test_content_is_restored_but_for_the_config_or_kept[memory]",
    ),
    "hidden_messages_deleted_from_the_count": Mutant(
        "domain/fold.py",
        "sum(not ranges.hides(rewound, seq) for seq in seqs) if rewound else len(seqs)",
        "len(seqs)",
        REWINDS,
        "test_deletions_know_what_is_hidden[memory]",
    ),
    "copy_kept_over_a_rewind": Mutant(
        "store/cached/changes.py",
        "{*writes.rewritten(), *(row.key for row in writes.rewound)}",
        "{*writes.rewritten()}",
        REWINDS,
        "test_window_of_newest_messages_follows_a_rewind[cached memory]",
    ),
    "context_of_a_hidden_place_as_of_now": Mutant(
        "rpc/context/history.py",
        "0 if differs else now.version",
        "now.version",
        REWINDS,
        "test_contexts_have_what_was_visible_then[memory]",
    ),
    "id_begins_anew": Mutant(
        "domain/batch.py",
        "0 if state is None else state.core.version\n",
        "0\n",
        REUSE,
        "test_versions_go_on_behind_the_deletion[memory]",
    ),
    "id_taken_by_another_user": Mutant(
        "domain/batch.py",
        "and tombstone.user_id == action.session.user_id",
        "",
        REUSE,
        "test_a_deleted_session_is_taken_only_with_the_flag_and_by_its_user[memory]",
    ),
    "id_taken_without_the_flag": Mutant(
        "domain/batch.py",
        "return action.reuse_deleted and tombstone.deleted",
        "return tombstone.deleted",
        REUSE,
        "test_a_deleted_session_is_taken_only_with_the_flag_and_by_its_user[memory]",
    ),
    "id_of_a_live_session_taken": Mutant(
        "domain/batch.py",
        "return action.reuse_deleted and tombstone.deleted",
        "return action.reuse_deleted",
        REUSE,
        "test_a_live_or_ended_session_is_not_taken[memory]",
    ),
    "requests_of_the_session_before_remembered": Mutant(
        "domain/batch.py",
        "if record is None or self._forgotten(command.key, record):",
        "if record is None:",
        REUSE,
        "test_request_ids_of_the_session_before_are_free_in_the_batch_of_its_deletion[memory]",
    ),
    "retry_reaches_the_next_session": Mutant(
        "domain/batch.py",
        "(state.core.version if state.deleted else state.core.base_version):",
        "0:",
        REUSE,
        "test_requests_of_a_session_before_do_nothing_to_the_next[memory-True]",
    ),
    "log_of_the_session_before_joined": Mutant(
        "events/channel.py",
        "if page.before is not None and page.before.type == DELETED and not head.deleted:",
        "if head.version < 0:",
        "tests/rpc/test_reused_ids.py",
        "test_positions_of_a_session_before_are_compacted",
    ),
    "watch_goes_on_into_the_next_session": Mutant(
        "events/sessions.py",
        "if row.type == DELETED), len(events))",
        "if row.type < 0), len(events))",
        HUB,
        "test_watcher_ends_where_one_batch_deletes_the_session_and_takes_its_id_again",
    ),
    "refused_session_of_a_batch_fails_all": Mutant(
        "rpc/sessions/servicer.py",
        "elif isinstance(outcome, SessiondError) and",
        "elif isinstance(outcome, ValueError) and",
        BATCHES,
        "test_one_that_is_refused_is_no_obstacle_to_the_others",
    ),
    "outage_is_an_outcome_of_a_batch": Mutant(
        "rpc/status.py",
        "if row is None or retried or row.code in (_C.UNAVAILABLE, _C.DEADLINE_EXCEEDED, _C.INTERNAL):",
        "if row is None:",
        BATCHES,
        "test_retry_continues_where_the_first_attempt_stopped",
    ),
    "versions_of_a_batch_not_compared": Mutant(
        "rpc/sessions/servicer.py",
        "versions = request.expected_versions or [0] * len(actions)",
        "versions = [0] * len(actions)",
        BATCHES,
        "test_updates_hold_to_expected_versions_of_their_own",
    ),
    "sessions_of_a_batch_get_one_id": Mutant(
        "rpc/sessions/checks.py",
        'request.request_id and f"{request.request_id}/{index}"',
        "request.request_id",
        BATCHES,
        "test_sessions_without_ids_get_ids_of_their_own_which_a_retry_finds",
    ),
    "update_done_where_its_messages_are_refused": Mutant(
        "domain/messages/rules.py",
        "_check(step, state, update.limits, action)\n    session_rules.apply(step, state, update)",
        "session_rules.apply(step, state, update)\n    _check(step, state, update.limits, action)",
        TOGETHER,
        "TestUpdateAndAppend::test_neither_is_done_where_one_is_refused",
    ),
    "messages_held_to_the_config_before": Mutant(
        "domain/messages/rules.py",
        "_check(step, state, update.limits, action)",
        "_check(step, state, state.limits, action)",
        TOGETHER,
        "TestUpdateAndAppend::test_limits_and_tools_of_the_new_config_hold",
    ),
    "documents_of_an_append_not_checked": Mutant(
        "domain/messages/rules.py",
        "document_rules.check_beside(step, state, action.documents)",
        "pass",
        DOCUMENTS,
        "test_a_refused_append_writes_no_document[memory]",
    ),
    "deletion_of_any_number": Mutant(
        "domain/messages/deletion.py",
        "if len(chosen) > c.DELETED_AT_ONCE or (",
        "if (",
        DELETION,
        "test_limits_of_one_deletion[memory]",
    ),
    "end_of_a_delta_not_bounded": Mutant(
        "rpc/events/checks.py",
        "<= validation.MOST_INTEGER - size:",
        "<= validation.MOST_INTEGER:",
        REQUESTS,
        "test_a_delta",
    ),
}


def test_each_place_is_there_once() -> None:
    with table() as rows:
        for name, mutant in MUTANTS.items():
            with rows.row(name):
                mutated(*mutant.place)


@pytest.mark.long
def test_broken_rules_are_seen(tmp_path: Path) -> None:
    given, written = tmp_path / "mutants.json", tmp_path / "outcomes.jsonl"
    given.write_text(json.dumps({name: [mutant.place, mutant.tests] for name, mutant in MUTANTS.items()}))
    tests = sorted({test for mutant in MUTANTS.values() for test in mutant.tests})
    run = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "tests.support.mutation"),
            *("-W", "ignore::pytest.PytestAssertRewriteWarning"),  # the plugin has imported its package
            *("--mutants", str(given), "--outcomes", str(written), *tests),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stdout[-5000:]
    outcomes = defaultdict(list)
    for line in written.read_text().splitlines():
        name, test, *outcome = json.loads(line)
        outcomes[name, test].append(outcome)
    with table() as rows:
        for test in tests:
            with rows.row("nothing broken", test):
                assert outcomes["", test] == [["passed", ""]] * 2
        for name, mutant in MUTANTS.items():
            for test in mutant.tests:
                with rows.row(name, test):
                    ((phase, why),) = outcomes[name, test]
                    assert phase == "call", (phase, why)
