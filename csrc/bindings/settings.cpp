#include "bindings/settings.h"

#include <c10/util/Exception.h>
#include <torch/library.h>

#include <atomic>
#include <charconv>
#include <cstdlib>
#include <mutex>
#include <string_view>

namespace fusedrnn {
namespace {

struct Variable {
  const char* name;
  std::string Settings::* value;
};
constexpr Variable kVariables[] = {
    {"FUSEDRNN_CPU_ISA", &Settings::cpu_isa},
    {"FUSEDRNN_SCHEDULE", &Settings::schedule},
    {"FUSEDRNN_CUDA_GRAPH", &Settings::cuda_graph},
    {"FUSEDRNN_DEBUG", &Settings::debug},
    {"FUSEDRNN_CUDA_SELFTEST", &Settings::cuda_selftest},
    {"FUSEDRNN_CHUNK_BYTES", &Settings::chunk_bytes},
    {"NVIDIA_TF32_OVERRIDE", &Settings::nvidia_tf32_override},
};

const Settings* read_environment() {
  auto* read = new Settings;
  for (const Variable& variable : kVariables) {
    const char* value = std::getenv(variable.name);
    if (value != nullptr) read->*variable.value = value;
  }
  return read;
}

// What a call still reads is never freed; a person changes it a few times.
std::atomic<const Settings*> current{read_environment()};

void set_variable(std::string_view name, std::string value) {
  static std::mutex mutex;
  const std::lock_guard<std::mutex> lock(mutex);
  for (const Variable& variable : kVariables) {
    if (variable.name != name) continue;
    if (settings().*variable.value == value) return;
    auto* changed = new Settings(settings());
    changed->*variable.value = std::move(value);
    current.store(changed, std::memory_order_release);
    return;
  }
  TORCH_CHECK_VALUE(false, "name: expected an environment variable of fusedrnn, got ", name);
}

}  // namespace

const Settings& settings() { return *current.load(std::memory_order_acquire); }

int64_t chosen_chunk_bytes() {
  const std::string& text = settings().chunk_bytes;
  if (text.empty()) return 0;
  int64_t bytes = 0;
  const char* end = text.data() + text.size();
  const auto [read, error] = std::from_chars(text.data(), end, bytes);
  TORCH_CHECK_VALUE(error == std::errc{} && read == end && bytes > 0,
                    "FUSEDRNN_CHUNK_BYTES: expected a positive number of bytes, got '", text, "'");
  return bytes;
}

TORCH_LIBRARY_IMPL(fusedrnn, CompositeExplicitAutograd, m) {
  m.impl("set_variable", [](std::string_view name, std::string_view value) {
    set_variable(name, std::string(value));
  });
  m.impl("variable_names", [] {
    std::vector<std::string> names;
    for (const Variable& variable : kVariables) names.emplace_back(variable.name);
    return names;
  });
}

}  // namespace fusedrnn
