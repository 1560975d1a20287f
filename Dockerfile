# alexstream on NVIDIA's CUDA base; docs/install.md says how to run it.
# A tag can be moved: --build-arg BASE=nvidia/cuda@sha256:... fixes the base.
ARG BASE=nvidia/cuda:13.0.1-base-ubuntu24.04

# Stage 1: the compiler, the sources, and an environment of exactly the files in requirements/image.txt.
FROM ${BASE} AS builder

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libjpeg-turbo8-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/alexstream
ENV PATH=$VIRTUAL_ENV/bin:$PATH

WORKDIR /src
COPY requirements/image.txt requirements/
RUN python3 -m venv "$VIRTUAL_ENV" \
    && pip install --no-cache-dir --require-hashes --requirement requirements/image.txt

# Nothing more is fetched: the build takes the setuptools that came with its hash.
COPY . .
RUN pip install --no-cache-dir --no-index --no-deps --no-build-isolation .

# Stage 2: Python, the library that the operator is linked to, and the environment.
FROM ${BASE}

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libjpeg-turbo8 python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 10001 alexstream

ENV VIRTUAL_ENV=/opt/alexstream
ENV PATH=$VIRTUAL_ENV/bin:$PATH
COPY --from=builder $VIRTUAL_ENV $VIRTUAL_ENV

# Where the operator was not built, or does not load here, the image would only be slower: better no image.
RUN python3 -c "from alexstream.pipeline.decode import fused; assert fused.find_operator_address(), fused.find_operator().absence"

USER 10001
WORKDIR /data
ENTRYPOINT ["alexstream"]
CMD ["--help"]
