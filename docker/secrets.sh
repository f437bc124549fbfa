#!/bin/sh
# Make what the containers are told in secret: a file each in secrets/, and .env from .env.example. What is there already stays;
# files that hold a password made elsewhere (URLs, the exporter's) are written anew from it.
#
# The directory is for its owner alone, and that is what guards the files on this machine. The files are readable for all, since
# Compose mounts them one by one as they are, and those who read them in the containers are other users than you.
set -eu
cd "$(dirname "$0")/.."

umask 077
mkdir -p secrets
chmod 700 secrets

random() { od -An -v -tx1 -N32 /dev/urandom | tr -d ' \n'; }

make() { # NAME: 256 random bits, unless it is there
  [ -s "secrets/$1" ] || random >"secrets/$1"
}

for name in postgres-password owner-password bank-password replication-password monitor-password redis-password jwt-secret-key jwt-old-secret-keys \
  totp-key metrics-token seal-key admin-password grafana-password; do
  make "$name"
done

derive() { # NAME FORMAT PASSWORD: what holds that password, anew
  rm -f "secrets/$1"
  # shellcheck disable=SC2059 # the format is one of those below
  printf "$2" "$(cat "secrets/$3")" >"secrets/$1"
}

# The primary, or the proxy in front of whichever is the primary, has the name `database`. The replica is `database-replica`, in the same way.
derive database-url 'postgresql://bank:%s@database:5432/bank' bank-password
derive database-owner-url 'postgresql://bank_owner:%s@database:5432/bank' owner-password
derive database-replica-url 'postgresql://bank:%s@database-replica:5433/bank' bank-password
derive redis-url 'redis://:%s@redis:6379/0' redis-password
derive redis-exporter.json '{"redis://redis:6379": "%s"}' redis-password
chmod 444 secrets/*

[ -e .env ] || cp .env.example .env
echo "secrets/ and .env are there. The administrator's password is in secrets/admin-password, Grafana's in secrets/grafana-password."
