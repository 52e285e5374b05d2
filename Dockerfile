# videofib in a container, for a CPU and for CUDA:
#   docker build --target cpu  --tag videofib:cpu .
#   docker build --target cuda --tag videofib:cuda .
# Versions are those of constraints.txt. docs/install.md says how to run it.

FROM python:3.11-slim-bookworm AS base
# g++ compiles what TRAIN.COMPILE True generates, and with CUDA the first use of Triton. Debian keeps one version of it.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 videofib
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /src

FROM base AS cpu
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY constraints.txt .
RUN grep -E '^(torch|torchvision)==' constraints.txt > torch.txt \
    && pip install --requirement torch.txt --index-url "$TORCH_INDEX"
# The local version of torch's CPU build, 2.14.1+cpu, satisfies the constraint of 2.14.1.
COPY . .
RUN pip install --constraint constraints.txt '.[http,tensorboard]'
USER 1000
WORKDIR /home/videofib
ENTRYPOINT ["videofib"]
CMD ["--help"]

FROM base AS cuda
COPY . .
# torch's default build for Linux has CUDA's libraries; the host needs the driver and the NVIDIA container toolkit.
RUN pip install --constraint constraints.txt '.[http,tensorboard]'
USER 1000
WORKDIR /home/videofib
ENTRYPOINT ["videofib"]
CMD ["--help"]
