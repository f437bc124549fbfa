#!/bin/sh
# A streaming replica: copied from the primary at its first start, then following it.
set -eu
umask 077
# The password stays in memory; what -R writes down is the name of this file.
export PGPASSFILE=/tmp/pgpass
printf 'database:5432:replication:replicator:%s\n' "$(cat /run/secrets/replication-password)" >"$PGPASSFILE"

if [ ! -s "$PGDATA/PG_VERSION" ]; then
  # Aside first: what a copy that broke off leaves behind looks like a database and is none.
  rm -rf "$PGDATA.copy"
  pg_basebackup --dbname='host=database user=replicator application_name=replica' --pgdata="$PGDATA.copy" --slot=replica \
    --wal-method=stream --checkpoint=fast --write-recovery-conf
  mv "$PGDATA.copy" "$PGDATA"
fi
exec postgres -c config_file=/etc/postgresql/postgresql.conf -c port=5433
