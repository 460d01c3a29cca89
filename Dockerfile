# The package with its server and exports.
#
#   docker build --tag panacea .                                                 # with CUDA
#   docker build --tag panacea --build-arg PIP_EXTRA_INDEX_URL=<an address> .    # CPU only
#   docker run --rm --gpus all --volume "$PWD:/work" panacea dpo --help
#
# torch as pip finds it brings CUDA's libraries, and runs on a CPU as well. For an image that is far
# smaller name the index of PyTorch's CPU builds: pip prefers their version, which is the same but for
# its local part (+cpu).
FROM python:3.12-slim-bookworm

# A compiler: for packages without a wheel, and for kernels that libraries compile when they run.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 panacea

WORKDIR /opt/panacea
COPY setup.py pyproject.toml constraints.txt README.md LICENSE ./
COPY patches patches
COPY safe_rlhf_panacea safe_rlhf_panacea
ARG PIP_EXTRA_INDEX_URL=""
RUN pip install --no-cache-dir --constraint constraints.txt ".[serve,export,sentiment]"

USER 1000
WORKDIR /work
ENTRYPOINT ["panacea"]
CMD ["--help"]
