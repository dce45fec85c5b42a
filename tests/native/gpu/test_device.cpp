#include "test_device.h"

#include <cuda_runtime_api.h>

#include <cstdio>
#include <cstdlib>
#include <utility>

namespace oracle {

namespace {

cudaStream_t stream = nullptr;

void must(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fflush(stdout);
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(1);
}

int attribute(cudaDeviceAttr which) {
  int value = 0;
  must(cudaDeviceGetAttribute(&value, which, 0), "cudaDeviceGetAttribute");
  return value;
}

}  // namespace

DeviceBuffer::DeviceBuffer(DType dtype, int64_t count) : dtype_(dtype), count_(count) {
  if (count_ == 0) return;
  must(cudaMalloc(&data_, bytes()), "cudaMalloc");
  // All bits set are a NaN of every storage type.
  if (poisons_memory()) must(cudaMemsetAsync(data_, 0xFF, bytes(), stream), "cudaMemsetAsync");
}

DeviceBuffer::DeviceBuffer(Buffer host) : DeviceBuffer(host.dtype(), host.size()) {
  if (count_ == 0) return;
  must(cudaMemcpyAsync(data_, host.data(), bytes(), cudaMemcpyHostToDevice, stream),
       "copy to the GPU");
  must(cudaStreamSynchronize(stream), "copy to the GPU");
}

DeviceBuffer::DeviceBuffer(DeviceBuffer&& other) noexcept
    : dtype_(other.dtype_), count_(other.count_), data_(std::exchange(other.data_, nullptr)) {}

DeviceBuffer& DeviceBuffer::operator=(DeviceBuffer&& other) noexcept {
  dtype_ = other.dtype_;
  count_ = other.count_;
  std::swap(data_, other.data_);
  return *this;
}

// An error is no news here: whoever waits for the device is told.
DeviceBuffer::~DeviceBuffer() { cudaFree(data_); }

Buffer DeviceBuffer::fetch() const {
  Buffer host(dtype_, count_);
  if (count_ == 0) return host;
  must(cudaMemcpyAsync(host.data(), data_, bytes(), cudaMemcpyDeviceToHost, stream),
       "copy from the GPU");
  must(cudaStreamSynchronize(stream), "copy from the GPU");
  return host;
}

Status open_device() {
  int count = 0;
  cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess) error = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
  if (error != cudaSuccess) {
    return Status::error("this test needs a CUDA device: %s", cudaGetErrorString(error));
  }
  // Fails where the program was compiled for other devices.
  DeviceBuffer zero(DType::kFloat32, 1);
  GemmArgs product{};
  product.m = product.n = 1;
  product.c = zero.data();
  const Status status = enqueue_product<float, float>(product);
  return status.ok ? wait_for_device() : status;
}

std::string device_text() {
  cudaDeviceProp properties;
  must(cudaGetDeviceProperties(&properties, 0), "cudaGetDeviceProperties");
  return std::string("on ") + properties.name;
}

int64_t max_smem_bytes() {
  static const int64_t bytes = attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin);
  return bytes;
}

bool poisons_memory() {
  static const char* text = std::getenv("FUSEDRNN_POISON");
  return text == nullptr || std::strcmp(text, "0") != 0;
}

std::string begin_run() {
  static int run = 0;
  return "run " + std::to_string(++run);
}

Status wait_for_device() {
  const cudaError_t error = cudaStreamSynchronize(stream);
  if (error == cudaSuccess) return {};
  return Status::error("%s", cudaGetErrorString(error));
}

void* device_stream() { return stream; }

}  // namespace oracle
