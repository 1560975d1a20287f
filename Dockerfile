# alexstream on NVIDIA's CUDA base; docs/install.md says how to run it.
FROM nvidia/cuda:13.0.1-base-ubuntu24.04

# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc libc6-dev libjpeg-turbo8-dev python3 python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*

ENV VIRTUAL_ENV=/opt/alexstream
ENV PATH=$VIRTUAL_ENV/bin:$PATH

WORKDIR /src
COPY . .
RUN python3 -m venv "$VIRTUAL_ENV" \
    && pip install --no-cache-dir --constraint constraints.txt ".[s3,tensorboard]" \
    && useradd --create-home --uid 10001 alexstream

USER 10001
WORKDIR /data
ENTRYPOINT ["alexstream"]
CMD ["--help"]
