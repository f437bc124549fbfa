#!/bin/sh
# Called once, on the first primary, with where it can be reached.
exec psql --no-psqlrc -v ON_ERROR_STOP=1 --dbname "$1" --file /etc/postgresql/roles.sql
