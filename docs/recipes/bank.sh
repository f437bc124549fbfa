# What the recipes share; each begins with `. docs/recipes/bank.sh`, in the bank's folder, with `make run` in another terminal.

api=${BANK_API:-http://localhost:8000/api/v1}
password='a tall ship and a star to steer by'
# So that a recipe can be tried again: nobody gets a username twice.
run=$RANDOM$RANDOM

# get NAME...: these members of the JSON that comes in.
get() { python3 -c 'import json, sys; found = json.load(sys.stdin); print(*(found.get(name) for name in sys.argv[1:]))' "$@"; }

# call TOKEN METHOD PATH [BODY [OPTION...]]: one call of the API; waits for the outcome where money moves.
call() {
  curl -sS "$api$3" -X "$2" -H "Authorization: Bearer $1" -H 'Content-Type: application/json' -H 'Prefer: wait=20' ${4:+-d "$4"} "${@:5}"
}

# log_in USERNAME PASSWORD: a token.
log_in() { call '' POST /auth/login "{\"username\": \"$1\", \"password\": \"$2\"}" | get access_token; }

# customer USERNAME: register a customer, and log in.
customer() {
  call '' POST /auth/register "{\"username\": \"$1\", \"email\": \"$1@example.com\", \"password\": \"$password\"}" >/dev/null
  log_in "$1" "$password"
}

# administrator: log in as the one whom `make run` has made.
administrator() { log_in admin "$(cat .data/admin-password)"; }
