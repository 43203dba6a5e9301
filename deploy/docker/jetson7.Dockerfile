# FaceInsight's server on a Jetson Orin or Thor with JetPack 7.2. Build it on the board, or on another aarch64 machine.
# not run on hardware
#   docker build -f deploy/docker/jetson7.Dockerfile -t faceinsight:jetson7 .
#   docker build -f deploy/docker/jetson7.Dockerfile -t faceinsight:jetson7 --build-arg CUDA_ARCHITECTURE=110 .    Thor
# NVIDIA's L4T images end with r36.4: from JetPack 7 on its images for Arm servers are a Jetson's too. CUDA 13.3 runs with
# the driver of JetPack 7.2, which is for 13.2: within a major version any minor does.
FROM nvcr.io/nvidia/cuda:13.3.1-tensorrt-devel-ubuntu24.04 AS builder
RUN apt-get update \
    && apt-get install -y --no-install-recommends build-essential python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /venv \
    && /venv/bin/python -m pip install --no-cache-dir --upgrade pip
ENV PATH=/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
# Compilers at a time: a board with 8 GB has memory for two.
ARG JOBS=2
# The GPU: 87 is Orin, 110 is Thor. NO_VMM: reserving 32 GB of addresses fails on boards with 8 GB.
ARG CUDA_ARCHITECTURE=87
RUN CUDACXX=/usr/local/cuda/bin/nvcc CMAKE_BUILD_PARALLEL_LEVEL=${JOBS} \
    CMAKE_ARGS="-DGGML_CUDA=on -DGGML_CUDA_NO_VMM=on -DCMAKE_CUDA_ARCHITECTURES=${CUDA_ARCHITECTURE} -DGGML_NATIVE=off -DGGML_CPU_ARM_ARCH=armv8.2-a+dotprod+fp16 -DLLAVA_BUILD=off" \
    pip wheel --wheel-dir /wheels --no-binary llama-cpp-python "llama-cpp-python>=0.3.36,<0.4"
WORKDIR /src
COPY . .
# The CPU build of ONNX Runtime, which TensorRT needs to compare its plans with: NVIDIA has none with kernels for these
# GPUs (docs/devices/jetson.md).
RUN pip wheel --wheel-dir /wheels --find-links /wheels --only-binary llama-cpp-python ".[cpu,server]"

# The same image: it has TensorRT, and with it the CUDA compiler.
FROM nvcr.io/nvidia/cuda:13.3.1-tensorrt-devel-ubuntu24.04
# TensorRT's Python module is of the version that its libraries have. --system-site-packages: it is the system's.
# Group video: some of the GPU's device files.
RUN apt-get update \
    && version=$(dpkg-query --show --showformat='${Version}\n' 'libnvinfer[0-9]*' | head -n 1) \
    && apt-get install -y --no-install-recommends libgomp1 python3-venv "python3-libnvinfer=${version}" \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv --system-site-packages /opt/faceinsight \
    && useradd --uid 10001 --groups video --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin faceinsight \
    && install -d -m 700 -o faceinsight -g faceinsight /var/lib/faceinsight /var/lib/faceinsight/engines
ENV PATH=/opt/faceinsight/bin:$PATH
RUN --mount=type=bind,from=builder,source=/wheels,target=/wheels \
    pip install --no-cache-dir --no-index --find-links /wheels "faceinsight[cpu,server]"
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
