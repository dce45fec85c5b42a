// Which instruction sets this library and the running machine have, and their kernel tables.
#include "cpu/instruction_sets.h"

#include <cstdint>
#include <cstdio>
#include <cstring>

#include "cpu/cpu_library.h"

#if defined(__x86_64__) || defined(_M_X64)
#define FUSEDRNN_X86 1
#if defined(_MSC_VER)
#include <intrin.h>
#else
#include <cpuid.h>
#endif
#endif
#if defined(_WIN32)
#include <windows.h>
#elif defined(__APPLE__)
#include <sys/sysctl.h>
#else
#if defined(__linux__)
#include <sched.h>
#endif
#include <unistd.h>
#endif

namespace fusedrnn {

// The tables, one of each object that isa/table.cpp is compiled to.
inline namespace generic {
extern const KernelTable kernel_table;
}
inline namespace avx2 {
extern const KernelTable kernel_table;
}
inline namespace avx512 {
extern const KernelTable kernel_table;
}

namespace {

constexpr Isa kIsas[] = {Isa::kGeneric, Isa::kAvx2, Isa::kAvx512};

thread_local Isa last_used_isa = Isa::kGeneric;

const KernelTable* built_table(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
#if defined(FUSEDRNN_BUILD_AVX512)
      return &avx512::kernel_table;
#else
      return nullptr;
#endif
    case Isa::kAvx2:
#if defined(FUSEDRNN_BUILD_AVX2)
      return &avx2::kernel_table;
#else
      return nullptr;
#endif
    case Isa::kGeneric:
      break;
  }
  return &generic::kernel_table;
}

#if defined(FUSEDRNN_X86) && defined(_MSC_VER)
bool machine_has(Isa isa) {
  int leaf1[4], leaf7[4];
  __cpuidex(leaf1, 1, 0);
  __cpuidex(leaf7, 7, 0);
  const auto bit = [](int word, int idx) {
    return ((static_cast<unsigned>(word) >> idx) & 1) != 0;
  };
  if (!bit(leaf1[2], 27)) return false;  // the system does not save extended registers
  const auto saved_state = static_cast<unsigned>(_xgetbv(0));
  const bool has_avx2 = (saved_state & 0x6) == 0x6 && bit(leaf7[1], 5) && bit(leaf1[2], 12) &&
                        bit(leaf1[2], 29);  // AVX2, FMA, F16C
  if (isa == Isa::kAvx2) return has_avx2;
  return has_avx2 && (saved_state & 0xe6) == 0xe6 && bit(leaf7[1], 16) && bit(leaf7[1], 17) &&
         bit(leaf7[1], 30) && bit(leaf7[1], 31);  // AVX512F, DQ, BW, VL
}
#elif defined(FUSEDRNN_X86)
// Older compilers do not know F16C by name. The machine is asked once: a virtual one traps the
// instruction, which takes longer than a small layer.
bool machine_has_f16c() {
  static const bool has_f16c = [] {
    unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
    return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
  }();
  return has_f16c;
}

// __builtin_cpu_supports also asks whether the system saves the registers, F16C's with AVX's.
bool machine_has(Isa isa) {
  const bool has_avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && machine_has_f16c();
  if (isa == Isa::kAvx2) return has_avx2;
  return has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
}
#else
bool machine_has(Isa) { return false; }
#endif

// An Intel processor says "GenuineIntel" in ebx, edx and ecx.
#if defined(FUSEDRNN_X86)
bool is_intel() {
  unsigned ebx = 0, ecx = 0, edx = 0;
#if defined(_MSC_VER)
  int leaf0[4];
  __cpuidex(leaf0, 0, 0);
  ebx = static_cast<unsigned>(leaf0[1]);
  ecx = static_cast<unsigned>(leaf0[2]);
  edx = static_cast<unsigned>(leaf0[3]);
#else
  unsigned eax = 0;
  __get_cpuid(0, &eax, &ebx, &ecx, &edx);
#endif
  return ebx == 0x756e6547 && edx == 0x49656e69 && ecx == 0x6c65746e;
}
#else
bool is_intel() { return false; }
#endif

// Bytes of the data or unified cache of that level, 0 if the system does not say.
#if defined(_WIN32)
int64_t cache_bytes(int level) {
  SYSTEM_LOGICAL_PROCESSOR_INFORMATION entries[512];
  DWORD bytes = sizeof(entries);
  if (!GetLogicalProcessorInformation(entries, &bytes)) return 0;
  for (DWORD i = 0; i < bytes / sizeof(entries[0]); ++i) {
    const CACHE_DESCRIPTOR& cache = entries[i].Cache;
    if (entries[i].Relationship == RelationCache && cache.Level == level &&
        cache.Type != CacheInstruction) {
      return cache.Size;
    }
  }
  return 0;
}
#elif defined(__APPLE__)
int64_t cache_bytes(int level) {
  const char* names[] = {"hw.l1dcachesize", "hw.l2cachesize", "hw.l3cachesize"};
  int64_t bytes = 0;
  size_t size = sizeof(bytes);
  return sysctlbyname(names[level - 1], &bytes, &size, nullptr, 0) == 0 ? bytes : 0;
}
#elif defined(_SC_LEVEL1_DCACHE_SIZE)
int64_t cache_bytes(int level) {
  const int names[] = {_SC_LEVEL1_DCACHE_SIZE, _SC_LEVEL2_CACHE_SIZE, _SC_LEVEL3_CACHE_SIZE};
  const long bytes = sysconf(names[level - 1]);
  return bytes > 0 ? bytes : 0;
}
#else
int64_t cache_bytes(int) { return 0; }
#endif

// Processors of the largest socket that this process may run on, or 0 if it is the only one or the
// system does not say.
#if defined(__linux__)
int socket_cores() {
  cpu_set_t allowed;
  if (sched_getaffinity(0, sizeof(allowed), &allowed) != 0) return 0;
  constexpr int kMaxSockets = 64;
  int cores[kMaxSockets] = {}, sockets = 0, most = 0;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed)) continue;
    char path[96];
    std::snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%d/topology/physical_package_id",
                  cpu);
    std::FILE* file = std::fopen(path, "r");
    if (file == nullptr) return 0;
    int socket = -1;
    const bool is_read = std::fscanf(file, "%d", &socket) == 1;
    std::fclose(file);
    if (!is_read || socket < 0 || socket >= kMaxSockets) return 0;
    if (cores[socket]++ == 0) ++sockets;
    if (cores[socket] > most) most = cores[socket];
  }
  return sockets > 1 ? most : 0;
}
#else
int socket_cores() { return 0; }
#endif

int64_t cache_bytes_or(int level, int64_t otherwise) {
  const int64_t bytes = cache_bytes(level);
  return bytes > 0 ? bytes : otherwise;
}

}  // namespace

const char* isa_name(Isa isa) {
  switch (isa) {
    case Isa::kAvx512:
      return "avx512";
    case Isa::kAvx2:
      return "avx2";
    case Isa::kGeneric:
      break;
  }
  return "generic";
}

bool isa_built(Isa isa) { return built_table(isa) != nullptr; }

bool isa_supported(Isa isa) { return isa_built(isa) && (isa == Isa::kGeneric || machine_has(isa)); }

Status select_isa(const char* forced, Isa* isa) {
  if (forced == nullptr || *forced == '\0') {
    *isa = isa_supported(Isa::kAvx512) ? Isa::kAvx512
           : isa_supported(Isa::kAvx2) ? Isa::kAvx2
                                       : Isa::kGeneric;
    return {};
  }
  char choices[64] = "";
  for (Isa candidate : kIsas) {
    if (!isa_supported(candidate)) continue;
    if (std::strcmp(forced, isa_name(candidate)) == 0) {
      *isa = candidate;
      return {};
    }
    if (choices[0] != '\0') std::strncat(choices, ", ", sizeof(choices) - std::strlen(choices) - 1);
    std::strncat(choices, isa_name(candidate), sizeof(choices) - std::strlen(choices) - 1);
  }
  for (Isa candidate : kIsas) {
    if (std::strcmp(forced, isa_name(candidate)) != 0) continue;
    return Status::error(
        "instruction set %s: %s; choose from %s", isa_name(candidate),
        isa_built(candidate) ? "this machine lacks it" : "not compiled into this library", choices);
  }
  return Status::error("instruction set %.60s: unknown; choose from %s", forced, choices);
}

Isa last_isa() { return last_used_isa; }

const KernelTable& use_kernel_table(Isa isa) {
  const KernelTable& table = *built_table(isa);
  last_used_isa = table.isa;
  return table;
}

bool has_intel_cpu() {
  static const bool intel = is_intel();
  return intel;
}

CpuInfo query_cpu(Isa isa, int num_threads, bool concurrent_threads) {
  static const int64_t l1 = cache_bytes_or(1, 32 << 10);
  static const int64_t l2 = cache_bytes_or(2, 1 << 20);
  static const int64_t l3 = cache_bytes_or(3, 16 << 20);
  static const int of_socket = socket_cores();
  return {isa, num_threads, concurrent_threads, l1, l2, l3, of_socket};
}

}  // namespace fusedrnn
