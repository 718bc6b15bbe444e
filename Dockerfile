# Three images of the same project:
#   docker build --target functions  -t REGISTRY/pilotlight-functions:0.1.0 .    every stage of an agent
#   docker build --target controller -t REGISTRY/pilotlight-controller:0.1.0 .   the controller and the dashboard
#   docker build --target triggers   -t REGISTRY/pilotlight-triggers:0.1.0 .     the dispatchers of triggers
# ENGINE=gpu (default) takes vLLM for CUDA, ENGINE=cpu the build for CPUs.
# Every Python package is installed at the version and with the hash of locks/ (x86-64, Python 3.11 to 3.13; `make
# lock` writes them); Debian's packages are verified by apt. Pin the base image by its digest:
#   --build-arg BASE=debian:trixie-slim@sha256:DIGEST
# `make prove-image` builds this file without a container engine and runs what it has built.
ARG BASE=debian:trixie-slim

# What every image has: Debian's Python and a user that is not root. Any other user ID works as well: nothing but /tmp
# is written to, caches included, so the root may be read-only.
# hadolint ignore=DL3006
FROM ${BASE} AS python
ENV PATH=/opt/pilotlight/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp USER=pilotlight
# Debian's packages are those of the base image's release, as its security team has updated them.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates python3 && \
    rm -rf /var/lib/apt/lists/* && useradd --no-create-home --home-dir /tmp --uid 10001 pilotlight

# What only a build needs: pip in an environment of its own, beside the one that an image gets.
FROM python AS build
ENV PYTHONDONTWRITEBYTECODE= PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends python3-venv && rm -rf /var/lib/apt/lists/* && \
    python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/pilotlight
COPY locks /src/locks
WORKDIR /src

# The project alone: a change of its code replaces a layer of some megabytes and none of the packages.
FROM build AS project
RUN /opt/pip/bin/pip install --require-hashes --no-deps -r locks/build.txt
COPY pyproject.toml README.md LICENSE ./
COPY functions functions
COPY warmpool warmpool
COPY triggers triggers
COPY knative knative
COPY transport transport
COPY weights weights
COPY pilotlight pilotlight
RUN /opt/pip/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . && \
    /opt/pip/bin/pip --python /opt/pilotlight/bin/python install --no-deps --no-index /wheels/*.whl

FROM build AS functions-packages
ARG ENGINE=gpu
RUN /opt/pip/bin/pip --python /opt/pilotlight/bin/python install --require-hashes --no-deps \
      -r "locks/functions-${ENGINE}.txt"
# The CPU build of torch has an index of its own.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
RUN if [ "${ENGINE}" = cpu ]; then \
      /opt/pip/bin/pip --python /opt/pilotlight/bin/python install --require-hashes --no-deps \
        --extra-index-url "${TORCH_INDEX}" -r locks/torch-cpu.txt; \
    fi

FROM python AS functions
ARG ENGINE=gpu
ENV HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
# A compiler, Python's headers: vLLM's kernels are compiled on the machine they run on, by Triton (gcc) or for CPUs by
# torch's Inductor (g++). On CPUs vLLM's own operators want libnuma.
# criu: restores the template process from a snapshot; it may do so as any user that the pod gives these capabilities.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends criu libcap2-bin && \
    if [ "${ENGINE}" = cpu ]; then \
      apt-get install -y --no-install-recommends g++ libnuma1 libpython3-dev; \
    else \
      apt-get install -y --no-install-recommends gcc libc6-dev libpython3-dev; \
    fi && \
    rm -f /usr/lib/python3*/config-*/*.a /usr/lib/x86_64-linux-gnu/libpython3*.a && \
    setcap cap_checkpoint_restore,cap_setpcap+eip "$(command -v criu)" && rm -rf /var/lib/apt/lists/*
COPY --from=functions-packages /opt/pilotlight /opt/pilotlight
COPY --from=project /opt/pilotlight/lib /opt/pilotlight/lib
COPY --from=project /opt/pilotlight/bin/pilotlight /opt/pilotlight/bin/
USER 10001
# Knative sets PORT; 8080 is its default.
EXPOSE 8080
ENTRYPOINT ["python", "-m", "functions"]
CMD ["generate"]

FROM build AS triggers-packages
RUN /opt/pip/bin/pip --python /opt/pilotlight/bin/python install --require-hashes --no-deps -r locks/triggers.txt

FROM python AS triggers
COPY --from=triggers-packages /opt/pilotlight /opt/pilotlight
COPY --from=project /opt/pilotlight/lib /opt/pilotlight/lib
COPY --from=project /opt/pilotlight/bin/pilotlight /opt/pilotlight/bin/
USER 10001
ENTRYPOINT ["python", "-m", "triggers"]

FROM build AS controller-packages
RUN /opt/pip/bin/pip --python /opt/pilotlight/bin/python install --require-hashes --no-deps -r locks/controller.txt

FROM python AS controller
COPY --from=controller-packages /opt/pilotlight /opt/pilotlight
COPY --from=project /opt/pilotlight/lib /opt/pilotlight/lib
COPY --from=project /opt/pilotlight/bin/pilotlight /opt/pilotlight/bin/
USER 10001
ENTRYPOINT ["python", "-m", "warmpool.controller"]
