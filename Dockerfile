# syntax=docker/dockerfile:1
FROM python:3.13-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ROOT_USER_ACTION=ignore
WORKDIR /src
RUN python -m venv /opt/build && python -m venv /opt/visit-counter
# Of any version: the compiler stays out of the image.
# hadolint ignore=DL3008
RUN apt-get update \
 && apt-get install -y --no-install-recommends gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
COPY deploy/requirements.txt deploy/requirements-build.txt deploy/
# mypyc reads the types of what the service needs, so they go to the build too.
RUN /opt/build/bin/pip install --require-hashes -r deploy/requirements.txt -r deploy/requirements-build.txt \
 && /opt/visit-counter/bin/pip install --require-hashes -r deploy/requirements.txt
COPY LICENSE README.md pyproject.toml ./
COPY deploy/compiled.py deploy/
COPY service service
RUN HATCH_BUILD_HOOK_ENABLE_CUSTOM=true /opt/build/bin/hatchling build -t wheel -d dist \
 && /opt/visit-counter/bin/pip install --no-deps --no-index dist/*.whl \
 && /opt/visit-counter/bin/pip uninstall --yes pip

FROM python:3.13-slim
LABEL org.opencontainers.image.title="Visit Counter" \
      org.opencontainers.image.description="A self-hosted visit counter" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --uid 10001 --no-create-home --home-dir /data visit-counter \
 && install -d -m 0700 -o visit-counter -g visit-counter /data
COPY --from=build /opt/visit-counter /opt/visit-counter
ENV PATH=/opt/visit-counter/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VISIT_COUNTER_DATA_DIR=/data \
    VISIT_COUNTER_LISTEN=0.0.0.0:8080
USER 10001:10001
VOLUME /data
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s CMD ["visit-counter", "healthcheck"]
ENTRYPOINT ["visit-counter"]
CMD ["serve"]
