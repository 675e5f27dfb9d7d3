# The service without bundled servers: give it SESSIOND_POSTGRES_DSN, and keys, since it listens on the network:
#
#     docker run -p 50051:50051 -e SESSIOND_POSTGRES_DSN=postgresql://... \
#       -v "$PWD/keys.toml:/etc/sessiond/keys.toml:ro" sessiond
#
# deploy/compose.yaml starts it with Postgres and Valkey.
ARG BASE=python:3.12.11-slim-bookworm

FROM ${BASE} AS build
WORKDIR /src
COPY deploy/requirements/build.txt deploy/requirements/server.txt deploy/requirements/
RUN python -m venv /opt/build \
 && /opt/build/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r deploy/requirements/build.txt
RUN python -m venv /opt/sessiond \
 && /opt/sessiond/bin/pip install --no-cache-dir --disable-pip-version-check --require-hashes -r deploy/requirements/server.txt
COPY pyproject.toml README.md LICENSE ./
COPY client client
COPY server server
RUN /opt/build/bin/pip wheel --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation -w /opt/wheels . \
 && /opt/sessiond/bin/pip install --no-cache-dir --disable-pip-version-check --no-deps --no-index --find-links /opt/wheels sessiond \
 && /opt/sessiond/bin/sessiond --version

FROM ${BASE}
COPY --from=build /opt/sessiond /opt/sessiond
ENV PATH=/opt/sessiond/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    SESSIOND_LISTEN=0.0.0.0:50051 \
    SESSIOND_KEYS_FILE=/etc/sessiond/keys.toml \
    SESSIOND_LOG_FORMAT=json
USER 10001:10001
EXPOSE 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 CMD ["sessiond", "healthcheck"]
ENTRYPOINT ["sessiond"]
CMD ["serve"]
