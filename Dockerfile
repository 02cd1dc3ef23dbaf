# Two images: `--target cpu` (the default, the last stage) and `--target cuda`.
#
#   docker build --target cpu  -t poselift:cpu  .
#   docker build --target cuda -t poselift:cuda .
#
# Both run as uid 10001 with a read-only root; only /tmp is written to. The weights are inside the wheel. They want keys:
# POSELIFT_KEYS, or POSELIFT_KEY_FILE with a file mounted (docs/operations.md, "Who may use it").

# The Python and the torch that the tests run with.
ARG PYTHON_VERSION=3.11
ARG TORCH_VERSION=2.14.1
ARG TORCHVISION_VERSION=0.29.1

FROM python:${PYTHON_VERSION}-slim AS base
ENV PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PIP_ROOT_USER_ACTION=ignore


FROM base AS wheel
WORKDIR /build
COPY pyproject.toml README.md LICENSE NOTICE ./
COPY service service
COPY model_store model_store
RUN python -m pip wheel --no-deps --wheel-dir /wheels .


# The packages go into a folder of their own, which alone reaches the image: no wheel, no cache, no build tool.
# torch comes first: for CUDA with the hashes of its lock file, else by version alone, since each index has its own build
# of it; then, with hashes, all else of the lock file (`make lock`); ours last, in a layer of its own, so that a change of
# our code leaves the others as they are.
FROM base AS packages-cpu
ARG TORCH_VERSION
ARG TORCHVISION_VERSION
# PyPI's torch for Linux brings CUDA along, gigabytes that a CPU never uses; the small build is on torch's own index.
# It is a build argument for those who mirror it. Empty (--build-arg TORCH_INDEX_URL=) takes pip's default index.
ARG TORCH_INDEX_URL=https://download.pytorch.org/whl/cpu
RUN python -m venv --without-pip /opt/poselift \
    && python -m pip --python /opt/poselift/bin/python install \
        ${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"} "torch==${TORCH_VERSION}" "torchvision==${TORCHVISION_VERSION}"
COPY docker/requirements-cpu.lock /locks/
RUN python -m pip --python /opt/poselift/bin/python install --no-deps --require-hashes --requirement /locks/requirements-cpu.lock
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/poselift/bin/python install --no-deps /wheels/*.whl \
    && python -m pip --python /opt/poselift/bin/python check


FROM base AS packages-cuda
ARG TORCH_VERSION
ARG TORCHVISION_VERSION
# The default index has the CUDA build. For another CUDA: --build-arg TORCH_CUDA_INDEX_URL=<torch's index for it>, whose
# device libraries no lock file pins.
ARG TORCH_CUDA_INDEX_URL=
COPY docker/requirements-torch-cuda.lock /locks/
RUN python -m venv --without-pip /opt/poselift \
    && if [ -z "$TORCH_CUDA_INDEX_URL" ]; then \
        python -m pip --python /opt/poselift/bin/python install --no-deps --require-hashes --requirement /locks/requirements-torch-cuda.lock; \
    else \
        python -m pip --python /opt/poselift/bin/python install \
            --index-url "$TORCH_CUDA_INDEX_URL" "torch==${TORCH_VERSION}" "torchvision==${TORCHVISION_VERSION}"; \
    fi
COPY docker/requirements-cuda.lock /locks/
RUN python -m pip --python /opt/poselift/bin/python install --no-deps --require-hashes --requirement /locks/requirements-cuda.lock
COPY --from=wheel /wheels /wheels
RUN python -m pip --python /opt/poselift/bin/python install --no-deps /wheels/*.whl \
    && python -m pip --python /opt/poselift/bin/python check


FROM base AS runtime
# A passwd entry, since torch asks for the user's name; HOME in /tmp, where CUDA and torch keep their caches.
RUN groupadd --gid 10001 poselift \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin poselift
ENV PATH=/opt/poselift/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PYTHONFAULTHANDLER=1
WORKDIR /srv/poselift
EXPOSE 8000
STOPSIGNAL SIGTERM
# Alive, not ready: a draining service is healthy. Without a proxy, whatever the environment says of one.
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=6 \
    CMD ["python", "-c", "import os, urllib.request as r; r.build_opener(r.ProxyHandler({})).open('http://127.0.0.1:' + os.environ.get('POSELIFT_PORT', '8000') + '/livez', timeout=4)"]
# Exec form: the service is process 1 and gets SIGTERM itself.
ENTRYPOINT ["poselift"]
CMD ["serve", "--host", "0.0.0.0"]
USER 10001:10001


FROM runtime AS cuda
COPY --from=packages-cuda /opt/poselift /opt/poselift
# Without a GPU the start fails: never a silent CPU.
ENV POSELIFT_DEVICE=cuda
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="poselift" \
      org.opencontainers.image.description="2D keypoints and 3D joints of the people in photos, clips and keypoint streams (CUDA)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"


FROM runtime AS cpu
COPY --from=packages-cpu /opt/poselift /opt/poselift
ENV POSELIFT_DEVICE=cpu
ARG VERSION=dev
ARG REVISION=unknown
LABEL org.opencontainers.image.title="poselift" \
      org.opencontainers.image.description="2D keypoints and 3D joints of the people in photos, clips and keypoint streams (CPU)" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
