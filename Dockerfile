# syntax=docker/dockerfile:1
# CPU:   docker build -t tractbench .
# CUDA:  docker build -t tractbench:cuda --build-arg TORCH=cuda .     and run it with --gpus all
# Tests: docker build --target test .
#
#   docker run --rm -v "$PWD:/work" tractbench run --method tract --dataset digits --nfe 1
#   docker run --rm -v "$PWD:/work" tractbench report --format html
#
# Results, the cache of data and teachers, and reports are written to /work, as the user that --user names.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim AS base
ARG TORCH=cpu
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PYTHONUNBUFFERED=1
# the newest torch: which build of it is the choice of the machine
# hadolint ignore=DL3013
RUN case "$TORCH" in \
      cpu) pip install torch torchvision --index-url https://download.pytorch.org/whl/cpu ;; \
      cuda) pip install torch torchvision ;; \
      *) echo "TORCH=$TORCH: give cpu or cuda" >&2; exit 2 ;; \
    esac
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY bench bench
COPY methods methods
COPY reports reports
COPY tables tables
RUN pip install -c constraints.txt .

FROM base AS test
RUN pip install -c constraints.txt '.[test]'
COPY . .
RUN useradd --uid 1000 --create-home tractbench && chown -R tractbench .
USER 1000
RUN python -m pytest

FROM base AS final
RUN useradd --uid 1000 --create-home tractbench && mkdir /work && chmod 1777 /work
USER 1000
ENV MPLCONFIGDIR=/tmp/matplotlib
# the README's main job on its smallest tier: an image that cannot do it is not made
WORKDIR /tmp/trial
RUN TRACTBENCH_CACHE=/tmp/trial/cache tractbench run --method tract --dataset digits --nfe 1 --tier smoke --quiet && \
    tractbench report --format html && rm -r /tmp/trial/*
WORKDIR /work
ENV TRACTBENCH_CACHE=/work/.tractbench
ENTRYPOINT ["tractbench"]
CMD ["--help"]
