-- The last piece: nothing of the schema is for everybody. New functions are executable by PUBLIC unless this is said.

REVOKE ALL ON ALL TABLES IN SCHEMA whisperer FROM PUBLIC;
REVOKE ALL ON ALL SEQUENCES IN SCHEMA whisperer FROM PUBLIC;
REVOKE ALL ON ALL ROUTINES IN SCHEMA whisperer FROM PUBLIC;
REVOKE ALL ON SCHEMA whisperer FROM PUBLIC;
