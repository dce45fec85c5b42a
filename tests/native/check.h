// The smallest test registry that serves: TEST registers, CHECK records, main runs.
//
//   TEST(name_of_the_behaviour) { CHECK(a == b); CHECK_CLOSE(actual, expected, n, rtol, atol); }
//   CHECK_MAIN()
//
// A failed check is printed and the test goes on. The program takes parts of tests' names as its
// arguments and runs the tests that contain one. Its last line is "N passed, N failed"; it exits
// with 0 when something ran and nothing failed.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace check {

struct Test {
  const char* name;
  void (*run)();
};

inline std::vector<Test>& tests() {
  static std::vector<Test> all;
  return all;
}

// Failed checks of the running test; the first few are printed.
inline int& failures() {
  static int count = 0;
  return count;
}

constexpr int kPrinted = 10;

struct Registration {
  Registration(const char* name, void (*run)()) { tests().push_back({name, run}); }
};

inline bool fail(const char* file, int line) {
  if (++failures() > kPrinted) return false;
  std::printf("  %s:%d: ", file, line);
  return true;
}

// Three cases of four are left out, unless this is CI. Multiples of the golden ratio are spread
// evenly over the remainders of every loop's length, so that no value of an option goes untested.
inline bool leave_out_case() {
  static const bool is_ci = std::getenv("CI") != nullptr;
  static uint32_t count = 0;
  if (is_ci) return false;
  if (count == 0) std::printf("one case of four; CI=true runs all\n");
  return count++ * 2654435769u >> 30 != 0;
}

// |actual - expected| <= atol + rtol * |expected| for each of n elements. A NaN or an infinity
// must meet its equal. Prints the first element that breaks this rule, else the worst one.
template <class Actual, class Expected>
void close(const char* file, int line, const char* what, const Actual& actual,
           const Expected& expected, int64_t n, double rtol, double atol) {
  int64_t worst_idx = -1;
  double worst = 1;
  for (int64_t i = 0; i < n; ++i) {
    const double a = static_cast<double>(actual[i]), e = static_cast<double>(expected[i]);
    if (std::isfinite(a) && std::isfinite(e)) {
      const double error = std::fabs(a - e);
      const double allowed = atol + rtol * std::fabs(e);
      if (error <= allowed) continue;
      const double excess = allowed > 0 ? error / allowed : INFINITY;
      if (excess <= worst) continue;
      worst = excess;
      worst_idx = i;
    } else if (!(a == e || (std::isnan(a) && std::isnan(e)))) {
      worst_idx = i;
      break;
    }
  }
  if (worst_idx < 0 || !fail(file, line)) return;
  const double a = static_cast<double>(actual[worst_idx]);
  const double e = static_cast<double>(expected[worst_idx]);
  std::printf("%s[%lld]: got %.17g, expected %.17g, error %.3g, allowed %.3g\n", what,
              static_cast<long long>(worst_idx), a, e, std::fabs(a - e),
              atol + rtol * std::fabs(e));
}

// Whether a name contains one of the program's arguments, or there are none.
inline bool is_chosen(const char* name, int argc, char** argv) {
  bool found = argc < 2;
  for (int i = 1; i < argc; ++i) found = found || std::strstr(name, argv[i]);
  return found;
}

inline int run(int argc, char** argv) {
  int passed = 0, failed = 0;
  for (const Test& test : tests()) {
    if (!is_chosen(test.name, argc, argv)) continue;
    failures() = 0;
    test.run();
    if (failures() == 0) {
      ++passed;
      continue;
    }
    ++failed;
    std::printf("FAILED %s: %d checks\n", test.name, failures());
  }
  std::printf("%d passed, %d failed\n", passed, failed);
  return passed > 0 && failed == 0 ? 0 : 1;
}

}  // namespace check

#define TEST(name)                                                   \
  static void name();                                                \
  static const check::Registration registration_##name(#name, name); \
  static void name()

#define CHECK(condition)                                                                  \
  do {                                                                                    \
    if (!(condition) && check::fail(__FILE__, __LINE__)) std::printf("%s\n", #condition); \
  } while (false)

// CHECK with what was found, in printf's words.
#define CHECK_THAT(condition, ...)                         \
  do {                                                     \
    if (!(condition) && check::fail(__FILE__, __LINE__)) { \
      std::printf("%s: ", #condition);                     \
      std::printf(__VA_ARGS__);                            \
      std::printf("\n");                                   \
    }                                                      \
  } while (false)

#define CHECK_CLOSE(actual, expected, n, rtol, atol) \
  check::close(__FILE__, __LINE__, #actual, actual, expected, n, rtol, atol)

#define CHECK_MAIN() \
  int main(int argc, char** argv) { return check::run(argc, argv); }
