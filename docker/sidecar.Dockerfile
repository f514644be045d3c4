# The serving sidecar alone: no trainer, no orchestrator, no registry client. Build from the project's root:
#   docker build -f docker/sidecar.Dockerfile -t modelflow-sidecar .
# It writes nowhere but /cache, so it runs with a read-only root file system and a volume (or tmpfs) on /cache.
ARG PYTHON=3.13.7-slim-bookworm

FROM python:${PYTHON} AS packages
COPY docker/sidecar-requirements.lock /tmp/sidecar-requirements.lock
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: --require-hashes \
        --requirement /tmp/sidecar-requirements.lock
COPY ml_core /opt/modelflow/ml_core
COPY serving /opt/modelflow/serving
RUN /opt/venv/bin/python -m compileall -q /opt/modelflow

FROM python:${PYTHON}
COPY --from=packages /opt/venv /opt/venv
COPY --from=packages /opt/modelflow /opt/modelflow
RUN install --directory --owner 10001 --group 10001 /cache
WORKDIR /opt/modelflow
# every option of the sidecar is MODELFLOW_SERVE_<OPTION> in the environment; MLFLOW_TRACKING_URI names the registry
ENV PATH=/opt/venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/cache \
    MODELFLOW_SERVE_HOST=0.0.0.0 \
    MODELFLOW_SERVE_PORT=8080 \
    MODELFLOW_SERVE_CACHE=/cache/last-good
USER 10001:10001
VOLUME ["/cache"]
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s \
    CMD ["python", "-c", "from urllib.request import urlopen; urlopen('http://127.0.0.1:8080/v2/health/live', timeout=2)"]
ENTRYPOINT ["python", "-m", "serving"]
CMD ["models:/flight_delays/Production"]
