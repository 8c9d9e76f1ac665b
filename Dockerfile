# Two images from one file: `--target control-plane` (no torch) and `--target runtime`.
ARG PYTHON_IMAGE=python:3.13-slim-bookworm

FROM ${PYTHON_IMAGE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PATH=/opt/surefoot/bin:$PATH
WORKDIR /src
RUN python -m venv /opt/surefoot
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY control_plane control_plane
COPY model_runtime model_runtime
COPY migrations migrations

# The history names the code that wrote each change: --build-arg COMMIT=$(git rev-parse HEAD)
ARG COMMIT=
RUN [ -z "$COMMIT" ] || echo "$COMMIT" > control_plane/BUILD_COMMIT

FROM build AS build-control-plane
RUN pip install -c constraints.txt ".[postgres]"

# For a CPU-only torch, a fifth of the size: --build-arg PIP_EXTRA_INDEX_URL=<PyTorch's CPU wheel index>
FROM build AS build-runtime
ARG PIP_EXTRA_INDEX_URL=
RUN pip install -c constraints.txt ".[runtime]"

FROM ${PYTHON_IMAGE} AS base
ENV PATH=/opt/surefoot/bin:$PATH PYTHONUNBUFFERED=1 HOME=/var/lib/surefoot SUREFOOT_DATA_DIR=/var/lib/surefoot
RUN groupadd --system --gid 10001 surefoot \
    && useradd --system --uid 10001 --gid surefoot --home-dir /var/lib/surefoot --shell /usr/sbin/nologin surefoot \
    && install --directory --owner surefoot --group surefoot /var/lib/surefoot /models
COPY deploy/check_health.py /opt/check_health.py
WORKDIR /var/lib/surefoot

FROM base AS control-plane
COPY --from=build-control-plane /opt/surefoot /opt/surefoot
ENV SUREFOOT_HOST=0.0.0.0 SUREFOOT_PORT=8020
USER 10001:10001
EXPOSE 8020
ENTRYPOINT ["surefoot"]
CMD ["serve"]

FROM base AS runtime
COPY --from=build-runtime /opt/surefoot /opt/surefoot
ENV SUREFOOT_RUNTIME_HOST=0.0.0.0 SUREFOOT_RUNTIME_PORT=8021
USER 10001:10001
EXPOSE 8021
ENTRYPOINT ["python", "-m", "model_runtime"]
CMD ["serve"]
