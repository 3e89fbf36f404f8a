# One image for every program of Drydock: docker build -t drydock:0.1.0 .
#
# PYTHON_IMAGE may name a mirror or a digest. For linux/amd64: Faust has no wheels for arm64, and
# nothing is compiled here.
ARG PYTHON_IMAGE=python:3.11.14-slim-trixie

FROM ${PYTHON_IMAGE} AS build
WORKDIR /build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore
# Without pip: what runs has no use for it.
RUN python -m venv --without-pip /opt/drydock
# Before the code: this layer is made again only when the lock changes.
COPY requirements/server.lock requirements/server.lock
RUN pip --python /opt/drydock/bin/python install \
    --require-hashes --only-binary :all: -r requirements/server.lock
COPY pyproject.toml README.md LICENSE ./
COPY schemas schemas
COPY agents agents
COPY pipeline pipeline
# --no-build-isolation: the build backend is the one of the lock. It is not needed afterwards.
RUN pip --python /opt/drydock/bin/python install --no-deps --no-build-isolation . \
    && pip --python /opt/drydock/bin/python uninstall -y hatchling editables

FROM ${PYTHON_IMAGE}
LABEL org.opencontainers.image.title="drydock" \
      org.opencontainers.image.licenses="Apache-2.0"
# A number, so that Kubernetes can see that it is not root.
RUN groupadd --system --gid 10001 drydock \
    && useradd --system --uid 10001 --gid 10001 --no-create-home \
       --home-dir /var/lib/drydock --shell /usr/sbin/nologin drydock \
    && install -d -o 10001 -g 10001 -m 0750 /var/lib/drydock
COPY --from=build /opt/drydock /opt/drydock
# The root file system may be read-only: nothing is written but below /var/lib/drydock.
ENV PATH=/opt/drydock/bin:$PATH \
    HOME=/var/lib/drydock \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /var/lib/drydock
# Each program has its own address for /healthz; whoever runs the image asks there.
HEALTHCHECK NONE
ENTRYPOINT ["drydock"]
CMD ["--help"]
