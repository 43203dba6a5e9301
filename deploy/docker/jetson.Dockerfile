# FaceInsight's server on a Jetson Orin with JetPack 6.2. Build it on the board, or on another aarch64 machine.
# not run on hardware
#   docker build -f deploy/docker/jetson.Dockerfile -t faceinsight:jetson .
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0 AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir --upgrade pip
ENV PATH=/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Compilers at a time: a board with 8 GB has memory for two.
ARG JOBS=2
# The Orin's GPU (87) and CPU cores. NO_VMM: reserving 32 GB of addresses fails on boards with 8 GB.
RUN CUDACXX=/usr/local/cuda/bin/nvcc CMAKE_BUILD_PARALLEL_LEVEL=${JOBS} \
    CMAKE_ARGS="-DGGML_CUDA=on -DGGML_CUDA_NO_VMM=on -DCMAKE_CUDA_ARCHITECTURES=87 -DGGML_NATIVE=off -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16 -DLLAVA_BUILD=off" \
    pip wheel --wheel-dir /wheels --no-binary llama-cpp-python "llama-cpp-python>=0.3.36,<0.4"
# With kernels for the Orin: PyPI's has none (docs/devices/jetson.md).
RUN pip wheel --wheel-dir /wheels --no-deps --index-url https://pypi.jetson-ai-lab.io/jp6/cu126 onnxruntime-gpu
WORKDIR /src
COPY . .
# Not the extra gpu: it brings CUDA and cuDNN for servers, and the image has JetPack's.
RUN pip wheel --wheel-dir /wheels --find-links /wheels --only-binary llama-cpp-python,onnxruntime-gpu ".[server]" \
    "opencv-python-headless>=4.8"

# The same image: it has JetPack's TensorRT, and with it the CUDA compiler.
FROM nvcr.io/nvidia/l4t-jetpack:r36.4.0
# --system-site-packages: the module tensorrt is JetPack's. Group video: the GPU's device files.
RUN apt-get update \
    && apt-get install -y --no-install-recommends libgomp1 python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --system-site-packages /opt/faceinsight \
    && useradd --uid 10001 --groups video --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin faceinsight \
    && install -d -m 700 -o faceinsight -g faceinsight /var/lib/faceinsight /var/lib/faceinsight/engines
ENV PATH=/opt/faceinsight/bin:$PATH
RUN --mount=type=bind,from=builder,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "faceinsight[server]" \
    llama-cpp-python onnxruntime-gpu opencv-python-headless
# tensorrt, not auto: a GPU that does not start is an error, not a slow server. Its plans outlive the container in a volume.
ENV FACEINSIGHT_ENGINES=/var/lib/faceinsight/engines FACEINSIGHT_SERVE_DEVICE=tensorrt \
    NVIDIA_DRIVER_CAPABILITIES=all NVIDIA_VISIBLE_DEVICES=all XDG_CACHE_HOME=/tmp
USER 10001
EXPOSE 8080
STOPSIGNAL SIGTERM
# The first start builds TensorRT plans.
HEALTHCHECK --interval=30s --timeout=5s --start-period=1800s --retries=3 \
    CMD ["python", "-c", "import http.client, sys; c = http.client.HTTPConnection('127.0.0.1', 8080, timeout=4); c.request('GET', '/readyz'); sys.exit(c.getresponse().status != 200)"]
ENTRYPOINT ["faceinsight", "serve", "--host", "0.0.0.0", "--port", "8080", "--token-file", "/run/secrets/faceinsight_token"]
