-- Who may do what. The bank owns its database and is no superuser: what the schema forbids, it cannot lift.
\set bank `cat /run/secrets/bank-password`
\set monitor `cat /run/secrets/monitor-password`
CREATE ROLE bank LOGIN PASSWORD :'bank';
CREATE DATABASE bank OWNER bank;
CREATE ROLE monitor LOGIN PASSWORD :'monitor';
GRANT pg_monitor TO monitor;
