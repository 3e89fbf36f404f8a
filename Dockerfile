# docker build -t drydock:0.1.0 .                          every program
# docker build -t drydock-agent:0.1.0 --target agent .     a site's agent: no `pipeline`, no private keys
#
# PYTHON_IMAGE may name a mirror or a digest. For linux/amd64: Faust has no wheels for arm64, and
# nothing is compiled here.
ARG PYTHON_IMAGE=python:3.11.14-slim-trixie

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Without pip: the programs do not need it.
RUN python -m venv --without-pip /opt/drydock
# Before the code: this layer changes only with the lock.
COPY requirements/server.lock requirements/server.lock
RUN pip --python /opt/drydock/bin/python install \
    --require-hashes --only-binary :all: -r requirements/server.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY runtime runtime
COPY agents agents
COPY pipeline pipeline
COPY deploy/agent deploy/agent
# --no-build-isolation: the build backend comes from the lock. It is removed afterwards.
RUN pip --python /opt/drydock/bin/python install --no-deps --no-build-isolation . \
    && pip --python /opt/drydock/bin/python wheel \
       --no-deps --no-build-isolation --wheel-dir wheels ./deploy/agent \
    && pip --python /opt/drydock/bin/python uninstall -y hatchling editables

FROM build AS agent-build
RUN python -m venv --without-pip /opt/drydock-agent
COPY requirements/agent.lock requirements/agent.lock
RUN pip --python /opt/drydock-agent/bin/python install \
    --require-hashes --only-binary :all: -r requirements/agent.lock \
    && pip --python /opt/drydock-agent/bin/python install --no-deps wheels/drydock_agent-*.whl

FROM ${PYTHON_IMAGE} AS program
LABEL org.opencontainers.image.licenses="Apache-2.0"
# A number, so that Kubernetes can verify that it is not root.
RUN groupadd --system --gid 10001 drydock \
    && useradd --system --uid 10001 --gid 10001 --no-create-home \
       --home-dir /var/lib/drydock --shell /usr/sbin/nologin drydock \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/drydock
# The root file system may be read-only: programs write only below /var/lib/drydock.
ENV PATH=/opt/drydock/bin:/opt/drydock-agent/bin:$PATH \
    HOME=/var/lib/drydock \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/drydock
# Each program has its own address of /healthz; configure the probe where the image runs.
HEALTHCHECK NONE

FROM program AS agent
LABEL org.opencontainers.image.title="drydock-agent"
COPY --from=agent-build /opt/drydock-agent /opt/drydock-agent
ENTRYPOINT ["drydock-agent"]
CMD ["--help"]

FROM program
LABEL org.opencontainers.image.title="drydock"
COPY --from=build /opt/drydock /opt/drydock
ENTRYPOINT ["drydock"]
CMD ["--help"]
