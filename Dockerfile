# One image for every stage of an agent, one for the controller, and one for the dispatchers of triggers:
#   docker build --target functions  -t REGISTRY/pilotlight-functions:0.1.0 .
#   docker build --target controller -t REGISTRY/pilotlight-controller:0.1.0 .
#   docker build --target triggers   -t REGISTRY/pilotlight-triggers:0.1.0 .
# ENGINE=gpu (default) takes vLLM for CUDA, ENGINE=cpu the build for CPUs.
# Every package is installed at the version and with the hash of locks/ (x86-64; `make lock` writes them). Pin the
# base image as well: --build-arg BASE=python:3.12-slim@sha256:DIGEST
ARG BASE=python:3.12-slim

FROM ${BASE} AS source
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY locks locks
COPY functions functions
COPY warmpool warmpool
COPY triggers triggers
COPY knative knative
COPY transport transport
COPY weights weights
COPY pilotlight pilotlight

FROM ${BASE} AS functions
ARG ENGINE=gpu
# The CPU build of torch has an index of its own, which uv knows; its version is that of constraints.txt.
ARG TORCH_CPU=2.13.0+cpu
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
# gcc: vLLM's Triton kernels are compiled on the machine they run on.
# criu: restores the template process from a snapshot; it may do so as any user that the pod gives these capabilities.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev criu libcap2-bin && \
    setcap cap_checkpoint_restore,cap_setpcap+eip "$(command -v criu)" && rm -rf /var/lib/apt/lists/*
COPY --from=source /src /src
RUN pip install --require-hashes --no-deps -r /src/locks/functions-${ENGINE}.txt
RUN if [ "${ENGINE}" = cpu ]; then \
      uv pip install --system --no-cache --torch-backend cpu "torch==${TORCH_CPU}"; \
    fi
RUN pip install --no-deps --no-build-isolation /src && useradd --create-home --uid 10001 pilotlight
USER 10001
# Knative sets PORT; 8080 is its default.
EXPOSE 8080
ENTRYPOINT ["python", "-m", "functions"]
CMD ["generate"]

FROM ${BASE} AS triggers
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
COPY --from=source /src /src
RUN pip install --require-hashes --no-deps -r /src/locks/triggers.txt && \
    pip install --no-deps --no-build-isolation /src && useradd --create-home --uid 10001 pilotlight
USER 10001
ENTRYPOINT ["python", "-m", "triggers"]

FROM ${BASE} AS controller
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
COPY --from=source /src /src
RUN pip install --require-hashes --no-deps -r /src/locks/controller.txt && \
    pip install --no-deps --no-build-isolation /src && useradd --create-home --uid 10001 pilotlight
USER 10001
ENTRYPOINT ["python", "-m", "warmpool.controller"]
