// Exits with 0 when the running machine has the instruction set named by the argument.
#include <cstring>

int main(int argc, char** argv) {
  const char* isa = argc > 1 ? argv[1] : "";
  if (std::strcmp(isa, "generic") == 0) return 0;
#if defined(__x86_64__) && defined(__GNUC__)
  if (std::strcmp(isa, "avx2") == 0) {
    const bool has = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
    return has ? 0 : 1;
  }
  if (std::strcmp(isa, "avx512") == 0) {
    const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
    return has ? 0 : 1;
  }
#endif
  return 1;
}
