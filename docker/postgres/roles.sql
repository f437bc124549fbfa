-- Who may do what. The tables belong to who migrates; the bank reads and writes them, so that what the schema forbids, it cannot lift.
\set owner `cat /run/secrets/owner-password`
\set bank `cat /run/secrets/bank-password`
\set monitor `cat /run/secrets/monitor-password`
CREATE ROLE bank LOGIN PASSWORD :'bank';
CREATE ROLE bank_owner LOGIN PASSWORD :'owner';
CREATE DATABASE bank OWNER bank_owner;
CREATE ROLE monitor LOGIN PASSWORD :'monitor';
GRANT pg_monitor TO monitor;
