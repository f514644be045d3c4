# The model registry: MLflow's own server with basic auth, over PostgreSQL. From the project's root:
#   docker build -f docker/mlflow.Dockerfile -t modelflow-mlflow .
ARG PYTHON=3.13.7-slim-trixie

FROM python:${PYTHON} AS packages
COPY docker/mlflow-requirements.lock /tmp/mlflow-requirements.lock
RUN python -m venv --without-pip /opt/venv \
    && pip --python /opt/venv/bin/python install --no-cache-dir --only-binary :all: --require-hashes \
        --requirement /tmp/mlflow-requirements.lock

FROM python:${PYTHON}
COPY --from=packages /opt/venv /opt/venv
COPY docker/config/mlflow_users.py /opt/mlflow/mlflow_users.py
RUN install --directory --owner 10001 --group 10001 /artifacts
WORKDIR /opt/mlflow
ENV PATH=/opt/venv/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    MLFLOW_DISABLE_TELEMETRY=true \
    MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
USER 10001:10001
VOLUME ["/artifacts"]
EXPOSE 5000
CMD ["mlflow", "server", "--host", "0.0.0.0", "--port", "5000"]
