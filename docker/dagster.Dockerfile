# Dagster's webserver and daemon: neither holds the flows' code, both ask the code server for it. From the project's root:
#   docker build -f docker/dagster.Dockerfile -t modelflow-dagster .
ARG PYTHON=3.13.7-slim-trixie

FROM python:${PYTHON} AS packages
COPY docker/dagster-requirements.lock /tmp/dagster-requirements.lock
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: --require-hashes \
        --requirement /tmp/dagster-requirements.lock

FROM python:${PYTHON}
COPY --from=packages /opt/venv /opt/venv
COPY docker/config/dagster.yaml docker/config/workspace.yaml /opt/dagster/
WORKDIR /opt/dagster
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    DO_NOT_TRACK=true \
    DAGSTER_HOME=/opt/dagster
USER 10001:10001
EXPOSE 3000
CMD ["dagster-webserver", "-h", "0.0.0.0", "-p", "3000", "-w", "/opt/dagster/workspace.yaml"]
