# FaceInsight's server on a desktop's NVIDIA GPU: x86-64, driver 535 or newer, NVIDIA Container Toolkit.
# not run on hardware
#   docker build -f deploy/docker/gpu.Dockerfile -t faceinsight:gpu .
FROM nvidia/cuda:12.6.3-devel-ubuntu24.04 AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /venv
ENV PATH=/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# No GPU is there while an image is built, so none is "native": Turing to Hopper, and PTX for those after. Fewer compile
# sooner; 86 is GeForce 30, 89 is GeForce 40.
ARG CUDA_ARCHITECTURES="75-real;80-real;86-real;89-real;90"
RUN CUDACXX=/usr/local/cuda/bin/nvcc \
    CMAKE_ARGS="-DGGML_CUDA=on -DGGML_NATIVE=off -DLLAVA_BUILD=off -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURES}" \
    pip wheel --wheel-dir /wheels --no-binary llama-cpp-python "llama-cpp-python>=0.3.36,<0.4"
WORKDIR /src
COPY . .
# 1.22 is for CUDA 12 and cuDNN 9, which the image has: not the extra gpu, which brings both once more. From 1.27 on they
# are for CUDA 13 (docs/devices/desktop-gpu.md).
RUN pip wheel --wheel-dir /wheels --find-links /wheels --only-binary llama-cpp-python \
    ".[server]" "onnxruntime-gpu==1.22.*" "opencv-python-headless>=4.8"

FROM nvidia/cuda:12.6.3-cudnn-runtime-ubuntu24.04
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /opt/faceinsight \
    && useradd --uid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin faceinsight
ENV PATH=/opt/faceinsight/bin:$PATH
RUN --mount=type=bind,from=builder,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "faceinsight[server]" \
    llama-cpp-python onnxruntime-gpu opencv-python-headless
# cuda, not auto: a GPU that does not start is an error, not a slow server.
ENV FACEINSIGHT_SERVE_DEVICE=cuda XDG_CACHE_HOME=/tmp
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=30s --timeout=5s --start-period=120s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["faceinsight", "serve", "--host", "0.0.0.0", "--port", "8080", "--token-file", "/run/secrets/faceinsight_token"]
