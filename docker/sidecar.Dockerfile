# The serving sidecar alone: no trainer, no orchestrator, no registry client. Build from the project's root:
#   docker build -f docker/sidecar.Dockerfile -t modelflow-sidecar .
# It writes nowhere but /cache, so it runs with a read-only root file system and a volume (or tmpfs) on /cache.
ARG PYTHON=3.13.7-slim-bookworm

FROM python:${PYTHON} AS packages
# a C compiler, of the release the base has, for the .pyx files of serving/scorer
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev \
    && rm -rf /var/lib/apt/lists/*
COPY docker/build-requirements.lock docker/sidecar-requirements.lock /tmp/
RUN for each in build venv; do python -m venv --without-pip /opt/$each; done \
    && pip --python /opt/build/bin/python install --no-cache-dir --only-binary :all: --require-hashes \
        --requirement /tmp/build-requirements.lock \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: --require-hashes \
        --requirement /tmp/sidecar-requirements.lock
WORKDIR /opt/modelflow
COPY ml_core ml_core
COPY serving serving
COPY setup.py pyproject.toml README.md LICENSE ./
RUN /opt/build/bin/python setup.py --quiet build_ext --inplace \
    && rm -r setup.py pyproject.toml README.md LICENSE build serving/scorer/*.c \
    && /opt/venv/bin/python -m compileall -q .

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
