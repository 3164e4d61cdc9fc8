# Two images for amd64 and arm64, from one wheel: the sidecar, which is the last stage, and the agent server with what its tools need.
#   docker build --build-arg REVISION=$(git rev-parse HEAD) -t grpc-sidecar .
#   docker build --build-arg REVISION=$(git rev-parse HEAD) --target agent-server -t grpc-sidecar-agent .
#   docker buildx build --platform linux/amd64,linux/arm64 -t grpc-sidecar .
# Without further arguments the sidecar expects, read-only: /etc/sidecar/sidecar.yaml, /etc/sidecar/certs/{tls.crt,tls.key,ca.crt}, and a
# listener on 8443, which is what the health check asks. It writes to nothing but what the file names (/var/lib/sidecar is there for that).
FROM python:3.13-slim AS build
RUN apt-get update && apt-get install --yes --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY requirements/ requirements/
RUN python -m venv /opt/build && /opt/build/bin/pip install --no-cache-dir --require-hashes -r requirements/compile.txt
COPY . .
# The data path is compiled, from the same source: docs/decisions/0004-compiled-data-path.md.
RUN HATCH_BUILD_HOOK_ENABLE_MYPYC=true /opt/build/bin/python -m build --wheel --no-isolation --outdir /tmp/wheels .

# Each set is installed, and stripped of symbols, beside the wheel.
FROM build AS build-sidecar
RUN python -m venv --without-pip /opt/sidecar && /opt/build/bin/pip --python /opt/sidecar/bin/python install --no-cache-dir --require-hashes -r requirements/sidecar.txt && /opt/build/bin/pip --python /opt/sidecar/bin/python install --no-cache-dir --no-deps /tmp/wheels/*.whl
RUN find /opt/sidecar -name '*.so*' -type f -exec strip --strip-unneeded {} + && /opt/sidecar/bin/sidecar version

FROM build AS build-agent
RUN python -m venv --without-pip /opt/sidecar && /opt/build/bin/pip --python /opt/sidecar/bin/python install --no-cache-dir --require-hashes -r requirements/agent.txt && /opt/build/bin/pip --python /opt/sidecar/bin/python install --no-cache-dir --no-deps /tmp/wheels/*.whl
# Names of places and companies for telephone numbers, which nothing here asks for: 50 MB.
RUN find /opt/sidecar -name '*.so*' -type f -exec strip --strip-unneeded {} + && rm -rf /opt/sidecar/lib/python*/site-packages/phonenumbers/geodata /opt/sidecar/lib/python*/site-packages/phonenumbers/carrierdata /opt/sidecar/lib/python*/site-packages/phonenumbers/tzdata && /opt/sidecar/bin/agent-server version

FROM python:3.13-slim AS base
ARG REVISION=unknown
LABEL org.opencontainers.image.title="grpc-sidecar" \
      org.opencontainers.image.description="A gRPC service-mesh sidecar for agent workloads" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.base.name="docker.io/library/python:3.13-slim"
# Volumes that are mounted here for the first time belong to the user, too.
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin sidecar && install -d -o 10001 -g 10001 /etc/sidecar /etc/sidecar/ca /etc/sidecar/certs /var/lib/sidecar
ENV PATH=/opt/sidecar/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /etc/sidecar
STOPSIGNAL SIGTERM

FROM base AS agent-server
COPY --from=build-agent /opt/sidecar /opt/sidecar
EXPOSE 50051
HEALTHCHECK --interval=2s --timeout=2s --start-period=15s --retries=5 CMD ["sidecar", "probe", "--addr", "127.0.0.1:50051"]
ENTRYPOINT ["agent-server"]
CMD ["run"]

FROM base AS sidecar
COPY --from=build-sidecar /opt/sidecar /opt/sidecar
EXPOSE 8443
HEALTHCHECK --interval=2s --timeout=2s --start-period=15s --retries=5 CMD ["sidecar", "probe", "--addr", "127.0.0.1:8443", "--service", "sidecar", "--tls-ca", "certs/ca.crt", "--tls-cert", "certs/tls.crt", "--tls-key", "certs/tls.key"]
ENTRYPOINT ["sidecar"]
CMD ["run", "-c", "/etc/sidecar/sidecar.yaml"]
