# One image for every stage of an agent, and one for the controller:
#   docker build --target functions  -t pilotlight/functions:0.1.0 .
#   docker build --target controller -t pilotlight/controller:0.1.0 .
# ENGINE=gpu (default) takes vLLM for CUDA, ENGINE=cpu the build for CPUs.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS source
WORKDIR /src
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY functions functions
COPY warmpool warmpool
COPY knative knative
COPY transport transport
COPY weights weights
COPY pilotlight pilotlight

FROM python:${PYTHON}-slim AS functions
ARG ENGINE=gpu
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1 HF_HUB_OFFLINE=1 VLLM_NO_USAGE_STATS=1
# gcc: vLLM's Triton kernels are compiled on the machine they run on.
RUN apt-get update && apt-get install -y --no-install-recommends gcc libc6-dev && rm -rf /var/lib/apt/lists/*
COPY --from=source /src /src
RUN pip install "/src[${ENGINE}]" && useradd --create-home --uid 10001 pilotlight
USER 10001
# Knative sets PORT; 8080 is its default.
EXPOSE 8080
ENTRYPOINT ["python", "-m", "functions"]
CMD ["generate"]

FROM python:${PYTHON}-slim AS controller
ENV PYTHONUNBUFFERED=1 PIP_NO_CACHE_DIR=1
COPY --from=source /src /src
RUN pip install -c /src/constraints.txt /src && useradd --create-home --uid 10001 pilotlight
USER 10001
ENTRYPOINT ["python", "-m", "warmpool.controller"]
