-- Vacuum goes through tables of which rows are changed or removed once a twentieth of them are, and through those to which rows
-- are added once a fiftieth are new: with the server's defaults, a fifth, the round of a large table would come late and take
-- days.

set local lock_timeout = '1s';
alter table requests set (autovacuum_vacuum_scale_factor = 0.05);
alter table runs set (autovacuum_vacuum_scale_factor = 0.05);
alter table tool_calls set (autovacuum_vacuum_scale_factor = 0.05);
alter table run_figures set (autovacuum_vacuum_scale_factor = 0.05);
alter table documents set (autovacuum_vacuum_scale_factor = 0.05);
alter table document_requests set (autovacuum_vacuum_scale_factor = 0.05);
alter table uploads set (autovacuum_vacuum_scale_factor = 0.05);
alter table pieces set (autovacuum_vacuum_scale_factor = 0.05);
alter table releases set (autovacuum_vacuum_scale_factor = 0.05);
alter table sessions set (autovacuum_vacuum_scale_factor = 0.05);
alter table events set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
alter table message_marks set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
alter table attachments set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
alter table blobs set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
alter table blob_rows set (autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_analyze_scale_factor = 0.02);
