"""How far behind the log each follower is, as SQL: apart, so that a health check can ask it without loading the bank."""

# For how many seconds the first event behind a follower's position has been there. One that stands behind the end of the log was
# put there by somebody, and would never move again.
SECONDS = """CASE WHEN f.position > (SELECT COALESCE(max(position), 0) FROM events) THEN 'infinity' ELSE
              COALESCE((SELECT EXTRACT(epoch FROM clock_timestamp() - e.recorded_at)::float8
                          FROM events e WHERE e.position > f.position ORDER BY e.position LIMIT 1), 0) END"""

# Of each follower that has ever run.
SECONDS_BEHIND = f"SELECT f.name, {SECONDS} AS seconds FROM followers f"
