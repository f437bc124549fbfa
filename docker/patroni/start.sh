#!/bin/sh
# Patroni reads passwords from its environment only.
set -eu
umask 077
PATRONI_SUPERUSER_PASSWORD="$(cat /run/secrets/postgres-password)"
PATRONI_REPLICATION_PASSWORD="$(cat /run/secrets/replication-password)"
export PATRONI_SUPERUSER_PASSWORD PATRONI_REPLICATION_PASSWORD
exec patroni /etc/patroni/patroni.yml
