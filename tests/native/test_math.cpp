// math/: error bounds of exp, tanh and sigmoid, special values, 16-bit conversions, loads and
// stores. Built once for each instruction set and width of vectors.
//
// The float functions are tested on every kStride-th bit pattern of all 2^32;
// -DFUSEDRNN_TEST_STRIDE=1 tests every one.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <memory>
#include <random>

#include "check.h"
#include "cpu/isa/partial.h"
#include "math/group.h"
#include "math/pack.h"

#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#ifndef FUSEDRNN_TEST_STRIDE
#define FUSEDRNN_TEST_STRIDE 257
#endif

namespace fusedrnn {
namespace {

constexpr uint64_t kStride = FUSEDRNN_TEST_STRIDE;
constexpr float kInf = std::numeric_limits<float>::infinity();

// The functions under test, for scalars and packs alike, with the bounds that scalar.h states.
struct Exp {
  static constexpr const char* kName = "exp";
  static constexpr double kUlp = 1.1;
  static constexpr double kLow = 0, kHigh = HUGE_VAL;
  template <class V>
  static V value(const V& x) {
    return exp(x);
  }
  static double reference(double x) { return std::exp(x); }
  static long double reference(long double x) { return std::exp(x); }
};
struct Tanh {
  static constexpr const char* kName = "tanh";
  static constexpr double kUlp = 1.3;
  static constexpr double kLow = -1, kHigh = 1;
  template <class V>
  static V value(const V& x) {
    return tanh(x);
  }
  static double reference(double x) { return std::tanh(x); }
  static long double reference(long double x) { return std::tanh(x); }
};
struct Sigmoid {
  static constexpr const char* kName = "sigmoid";
  static constexpr double kUlp = 2.5;
  static constexpr double kLow = 0, kHigh = 1;
  template <class V>
  static V value(const V& x) {
    return sigmoid(x);
  }
  template <class Wide>
  static Wide reference(Wide x) {
    return 1 / (1 + std::exp(-x));
  }
};

// |actual - expected| in units of the last place of `expected` rounded to T; an overflow counts
// as the power of two that the format just lacks.
template <class T, class Wide>
double ulp_error(T actual, Wide expected) {
  using Limits = std::numeric_limits<T>;
  const Wide limit = std::ldexp(Wide(1), Limits::max_exponent);
  const Wide a = std::isinf(actual) ? std::copysign(limit, Wide(actual)) : Wide(actual);
  const Wide e = std::fmin(expected, limit);
  if (a == e) return 0;
  int exponent;
  std::frexp(std::fmin(std::fabs(e), Wide(Limits::max())), &exponent);
  if (exponent < Limits::min_exponent) exponent = Limits::min_exponent;
  return std::fabs(static_cast<double>(std::ldexp(a - e, Limits::digits - exponent)));
}

template <class T>
bool same_bits(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0 || (std::isnan(a) && std::isnan(b));
}

// The worst error so far, and where.
template <class T>
struct Worst {
  double ulp = 0;
  T x = 0;
};

// Tests one pack of arguments; the lanes that also go through the scalar function are few,
// because that one is slow.
template <class Function, class Wide, class T>
void check_pack(const T* x, bool scalars, Worst<T>* worst) {
  const Pack<T> y = Function::value(Pack<T>::load(x));
  for (int i = 0; i < Pack<T>::kLanes; ++i) {
    if (scalars) {
      const T scalar = Function::value(x[i]);
      CHECK_THAT(same_bits(y[i], scalar), "%s(%.9g): pack %.17g, scalar %.17g", Function::kName,
                 double(x[i]), double(y[i]), double(scalar));
    }
    if (std::isnan(x[i])) {
      CHECK_THAT(std::isnan(y[i]), "%s(NaN) = %g", Function::kName, double(y[i]));
      continue;
    }
    CHECK_THAT(y[i] >= T(Function::kLow) && y[i] <= T(Function::kHigh), "%s(%.9g) = %.17g",
               Function::kName, double(x[i]), double(y[i]));
    const double ulp = ulp_error(y[i], Function::reference(Wide(x[i])));
    if (!(ulp <= worst->ulp)) *worst = {ulp, x[i]};
  }
}

template <class Function, class T>
void check_bound(const Worst<T>& worst) {
  CHECK_THAT(worst.ulp <= Function::kUlp, "%s: %.3f ulp at %.17g", Function::kName, worst.ulp,
             double(worst.x));
  if (kStride == 1) std::printf("%s: at most %.3f ulp\n", Function::kName, worst.ulp);
}

template <class Function>
void check_all_floats() {
  constexpr int kLanes = Pack<float>::kLanes;
  Worst<float> worst;
  float x[kLanes];
  uint64_t packs = 0;
  for (uint64_t bits = 0; bits < (uint64_t(1) << 32); ++packs) {
    for (int i = 0; i < kLanes; ++i, bits += kStride) {
      x[i] = bit_cast<float>(static_cast<uint32_t>(bits));
    }
    check_pack<Function, double>(x, packs % 16 == 0, &worst);
  }
  check_bound<Function>(worst);
}

// Random bit patterns, all exponents; random arguments where the functions are not constant;
// and the neighbourhoods of the ends of their ranges.
template <class Function, class T>
void check_sampled(int count) {
  constexpr int kLanes = Pack<T>::kLanes;
  using Bits = typename ValueTraits<T>::Bits;
  std::mt19937_64 random(1);
  std::uniform_real_distribution<T> unit(-1, 1);
  const T ends[] = {0,         T(0.625),  20,        T(-103.97), T(88.72),
                    T(-87.33), T(709.78), T(-708.4), T(-745.13)};
  Worst<T> worst;
  T x[kLanes];
  for (int pack = 0; pack < count / kLanes; ++pack) {
    for (int i = 0; i < kLanes; ++i) {
      const T around = ends[random() % (sizeof(ends) / sizeof(ends[0]))];
      switch (pack % 4) {
        case 0:
          x[i] = bit_cast<T>(static_cast<Bits>(random()));
          break;
        case 1:
          x[i] = 25 * unit(random);
          break;
        case 2:
          x[i] = std::ldexp(unit(random), static_cast<int>(random() % 40) - 30);
          break;
        default:
          x[i] = around + std::ldexp(unit(random), -static_cast<int>(random() % 20));
      }
    }
    check_pack<Function, long double>(x, true, &worst);
  }
  check_bound<Function>(worst);
}

template <class Function, class T>
T of(T x) {
  const T y = Function::value(x);
  const Pack<T> pack = Function::value(Pack<T>(x));
  for (int i = 0; i < Pack<T>::kLanes; ++i) CHECK(same_bits(pack[i], y));
  return y;
}

template <class T>
void check_special_values() {
  const T inf = std::numeric_limits<T>::infinity();
  const T big = std::numeric_limits<T>::max();
  const T tiny = std::numeric_limits<T>::denorm_min();
  CHECK(same_bits(of<Exp>(T(0)), T(1)));
  CHECK(same_bits(of<Exp>(T(-0.0)), T(1)));
  CHECK(same_bits(of<Exp>(inf), inf));
  CHECK(same_bits(of<Exp>(big), inf));
  CHECK(same_bits(of<Exp>(-inf), T(0)));
  CHECK(same_bits(of<Exp>(-big), T(0)));
  CHECK(same_bits(of<Tanh>(T(0)), T(0)));
  CHECK(same_bits(of<Tanh>(T(-0.0)), T(-0.0)));
  CHECK(same_bits(of<Tanh>(tiny), tiny));
  CHECK(same_bits(of<Tanh>(-tiny), -tiny));
  CHECK(same_bits(of<Sigmoid>(T(0)), T(0.5)));
  for (T x : {T(40), big, inf}) {
    CHECK(same_bits(of<Tanh>(x), T(1)));
    CHECK(same_bits(of<Tanh>(-x), T(-1)));
    CHECK(same_bits(of<Sigmoid>(x), T(1)));
  }
  CHECK(same_bits(of<Sigmoid>(-big), T(0)));
  CHECK(same_bits(of<Sigmoid>(-inf), T(0)));
  const T nan = std::numeric_limits<T>::quiet_NaN();
  CHECK(std::isnan(of<Exp>(nan)) && std::isnan(of<Tanh>(nan)) && std::isnan(of<Sigmoid>(nan)));
  CHECK(std::isnan(of<Exp>(-nan)) && std::isnan(of<Tanh>(-nan)) && std::isnan(of<Sigmoid>(-nan)));
}

struct Relu {
  template <class V>
  static V value(const V& x) {
    return relu(x);
  }
};
struct Step {
  template <class V>
  static V value(const V& x) {
    return heaviside(x);
  }
};

template <class T>
void check_relu_and_step() {
  const T inf = std::numeric_limits<T>::infinity();
  const T nan = std::numeric_limits<T>::quiet_NaN();
  const T tiny = std::numeric_limits<T>::denorm_min();
  for (T x : {tiny, T(1), T(3.5), inf}) {
    CHECK(same_bits(of<Relu>(x), x));
    CHECK(same_bits(of<Relu>(-x), T(0)));
    CHECK(same_bits(of<Step>(x), T(1)));
    CHECK(same_bits(of<Step>(-x), T(0)));
  }
  CHECK(same_bits(of<Relu>(T(0)), T(0)) && same_bits(of<Relu>(T(-0.0)), T(0)));
  CHECK(same_bits(of<Step>(T(0)), T(0)) && same_bits(of<Step>(T(-0.0)), T(0)));
  CHECK(std::isnan(of<Relu>(nan)));
  CHECK(same_bits(of<Step>(nan), T(0)));
}

template <class T>
void check_arithmetic() {
  constexpr int kLanes = Pack<T>::kLanes;
  T a[kLanes], b[kLanes], c[kLanes];
  for (int i = 0; i < kLanes; ++i) {
    a[i] = T(1.5) + i;
    b[i] = T(-7.25) + i * T(0.37);
    c[i] = T(3) - i;
  }
  const Pack<T> pa = Pack<T>::load(a), pb = Pack<T>::load(b), pc = Pack<T>::load(c);
  Pack<T> sum = pa;
  sum += pb;
  for (int i = 0; i < kLanes; ++i) {
    CHECK((pa + pb)[i] == a[i] + b[i]);
    CHECK((pa - pb)[i] == a[i] - b[i]);
    CHECK((pa * pb)[i] == a[i] * b[i]);
    CHECK((pa / pb)[i] == a[i] / b[i]);
    CHECK((-pa)[i] == -a[i]);
    CHECK(sum[i] == a[i] + b[i]);
    CHECK(madd(pa, pb, pc)[i] == madd(a[i], b[i], c[i]));
    CHECK(Pack<T>(1.25f)[i] == T(1.25));
  }
}

// A group computes what its members would.
template <class T>
void check_groups() {
  constexpr int kSize = 3;
  using V = Pack<T>;
  std::mt19937_64 random(1);
  std::uniform_real_distribution<T> unit(-5, 5);
  const auto draw = [&](int) {
    T lanes[V::kLanes];
    for (T& lane : lanes) lane = unit(random);
    return V::load(lanes);
  };
  const auto a = make_group<V, kSize>(draw), b = make_group<V, kSize>(draw);
  const auto check = [&](const Group<V, kSize>& group, const auto& of_member) {
    for (int i = 0; i < kSize; ++i) {
      const V expected = of_member(a.member[i], b.member[i]);
      for (int lane = 0; lane < V::kLanes; ++lane) {
        CHECK(same_bits(group.member[i][lane], expected[lane]));
      }
    }
  };
  check(a + b, [](const V& x, const V& y) { return x + y; });
  check(a - b, [](const V& x, const V& y) { return x - y; });
  check(a * b, [](const V& x, const V& y) { return x * y; });
  check(a / b, [](const V& x, const V& y) { return x / y; });
  check(-a, [](const V& x, const V&) { return -x; });
  // The sum is not of a * b: a product that is used elsewhere may be rounded by itself.
  check(madd(b, b, a), [](const V& x, const V& y) { return madd(y, y, x); });
  check(tanh(a), [](const V& x, const V&) { return tanh(x); });
  check(sigmoid(a), [](const V& x, const V&) { return sigmoid(x); });
  check(relu(a), [](const V& x, const V&) { return relu(x); });
  check(heaviside(a), [](const V& x, const V&) { return heaviside(x); });
  check(select(a < b, a, b), [](const V& x, const V& y) { return select<T>(x < y, x, y); });
  check(select(a > b, a, b), [](const V& x, const V& y) { return select<T>(x > y, x, y); });
  check(select(a <= b, a, b), [](const V& x, const V& y) { return select<T>(x <= y, x, y); });
}

template <class T>
void check_lane_sums() {
  constexpr int kLanes = Pack<T>::kLanes;
  Pack<T> packs[kLanes];
  T expected[kLanes] = {};
  for (int i = 0; i < kLanes; ++i) {
    T lanes[kLanes];
    for (int lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = T(i * i + 3 * lane + 1);  // small integers: any order of additions is exact
      expected[i] += lanes[lane];
    }
    packs[i] = Pack<T>::load(lanes);
  }
  const Pack<T> sums = sum_lanes(packs);
  for (int i = 0; i < kLanes; ++i) CHECK(sums[i] == expected[i]);
}

// A storage value that differs from element to element and is exact in every format.
template <class S>
S element(int i) {
  return from_float<S>(1.0f + 0.125f * static_cast<float>(i));
}
template <>
double element<double>(int i) {
  return 1.0 + 0.125 * i;
}
double as_double(double value) { return value; }
template <class S>
double as_double(S value) {
  return to_float(value);
}

// Exactly n elements are owned, at an address that is aligned to nothing: the address sanitizer
// sees a touch beyond them.
template <class T, class S>
void check_loads_and_stores() {
  constexpr int kLanes = Pack<T>::kLanes;
  for (int n = 0; n <= kLanes; ++n) {
    const std::unique_ptr<S[]> memory(new S[n + 1]);
    S* data = memory.get() + 1;
    for (int i = 0; i < n; ++i) data[i] = element<S>(i);
    const Pack<T> pack = Pack<T>::load_partial(data, n);
    const Pack<T> masked = load_partial<Pack<T>>(data, n);  // cpu/isa/partial.h
    for (int i = 0; i < kLanes; ++i) {
      CHECK(same_bits<T>(pack[i], i < n ? T(as_double(element<S>(i))) : T(0)));
      CHECK(same_bits<T>(masked[i], pack[i]));
    }
    if (n == kLanes) {
      for (int i = 0; i < kLanes; ++i) CHECK(Pack<T>::load(data)[i] == pack[i]);
    }

    for (const bool is_masked : {false, true}) {
      if (is_masked && n == kLanes) continue;  // only parts of a vector
      S target[2 * kLanes + 1];
      for (S& s : target) s = element<S>(77);
      if (is_masked) {
        store_partial(pack + pack, target + 1, n);
      } else {
        (pack + pack).store_partial(target + 1, n);
      }
      for (int i = 0; i < 2 * kLanes + 1; ++i) {
        const bool written = i >= 1 && i <= n;
        const double expected =
            written ? 2 * as_double(element<S>(i - 1)) : as_double(element<S>(77));
        CHECK_THAT(as_double(target[i]) == expected, "n %d, element %d: %g", n, i,
                   as_double(target[i]));
      }
    }
    if (n == kLanes) {
      S target[2 * kLanes + 1];
      pack.store(target + 1);
      for (int i = 0; i < n; ++i) CHECK(as_double(target[i + 1]) == as_double(element<S>(i)));
    }
  }
}

// The format's parameters, from which the reference below knows its every value.
struct Bfloat16Format {
  using Storage = BFloat16;
  static constexpr int kMantissaBits = 7, kBias = 127;
};
struct Float16Format {
  using Storage = Float16;
  static constexpr int kMantissaBits = 10, kBias = 15;
};

template <class Format>
double reference_decode(uint32_t bits) {
  const int mantissa_bits = Format::kMantissaBits;
  const int exponent = (bits & 0x7FFF) >> mantissa_bits;
  const int mantissa = bits & ((1 << mantissa_bits) - 1);
  const double sign = bits & 0x8000 ? -1 : 1;
  if (exponent == 2 * Format::kBias + 1) return mantissa ? NAN : sign * HUGE_VAL;
  const int unit = std::max(exponent, 1) - Format::kBias - mantissa_bits;
  return sign * std::ldexp(mantissa + (exponent > 0 ? 1 << mantissa_bits : 0), unit);
}

// Nearest, ties to even, by rounding in units of the format's last place.
template <class Format>
uint32_t reference_encode(float value) {
  const int mantissa_bits = Format::kMantissaBits;
  const uint32_t sign = std::signbit(value) ? 0x8000 : 0;
  const uint32_t infinity = (2 * Format::kBias + 1) << mantissa_bits;
  const double abs = std::fabs(static_cast<double>(value));
  if (std::isinf(abs)) return sign | infinity;
  int exponent = 0;
  if (abs > 0) exponent = std::max(std::ilogb(abs), 1 - Format::kBias);
  if (abs == 0) exponent = 1 - Format::kBias;
  const double units = std::nearbyint(std::ldexp(abs, mantissa_bits - exponent));
  // Units count on from the previous exponent's last value, so that a carry needs no care.
  const double encoded = units + std::ldexp(exponent + Format::kBias - 1, mantissa_bits);
  return sign | std::min(static_cast<uint32_t>(encoded), infinity);
}

template <class Format>
void check_decode() {
  using S = typename Format::Storage;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const S half{static_cast<uint16_t>(bits)};
    const double expected = reference_decode<Format>(bits);
    const float actual = to_float(half);
    CHECK_THAT(same_bits(actual, float(expected)), "%04x: %g, expected %g", bits, double(actual),
               expected);
    if (std::isnan(expected)) continue;
    CHECK_THAT(from_float<S>(actual).bits == bits, "%04x comes back as %04x", bits,
               from_float<S>(actual).bits);
  }
  constexpr int kLanes = Pack<float>::kLanes;
  for (uint32_t bits = 0; bits < 0x10000; bits += kLanes) {
    S half[kLanes];
    for (int i = 0; i < kLanes; ++i) half[i].bits = static_cast<uint16_t>(bits + i);
    const Pack<float> pack = Pack<float>::load(half);
    for (int i = 0; i < kLanes; ++i) CHECK(same_bits(pack[i], to_float(half[i])));
  }
}

template <class Format>
void check_encode(float x, uint16_t actual) {
  if (std::isnan(x)) {
    CHECK_THAT(std::isnan(reference_decode<Format>(actual)), "NaN became %04x", actual);
    return;
  }
  const uint32_t expected = reference_encode<Format>(x);
  CHECK_THAT(actual == expected, "%.9g became %04x, expected %04x", double(x), actual, expected);
}

template <class Format>
void check_encode() {
  using S = typename Format::Storage;
  constexpr int kLanes = Pack<float>::kLanes;
  float x[kLanes];
  S half[kLanes];
  for (uint64_t bits = 0; bits < (uint64_t(1) << 32);) {
    for (int i = 0; i < kLanes; ++i, bits += 17 * kStride) {
      x[i] = bit_cast<float>(static_cast<uint32_t>(bits));
    }
    Pack<float>::load(x).store(half);
    for (int i = 0; i < kLanes; ++i) check_encode<Format>(x[i], half[i].bits);
  }
  // Every value of the format, the midpoint to the next one, and both neighbours of each.
  for (uint32_t bits = 0; bits < 0x7FFF; ++bits) {
    const float value = static_cast<float>(reference_decode<Format>(bits));
    const float next = static_cast<float>(reference_decode<Format>(bits + 1));
    const float middle = std::isinf(next) ? value : value + (next - value) / 2;
    for (float y : {value, middle}) {
      for (float z : {y, std::nextafter(y, kInf), std::nextafter(y, -kInf), -y}) {
        check_encode<Format>(z, from_float<S>(z).bits);
      }
    }
  }
}

TEST(float_exp_keeps_its_bound) { check_all_floats<Exp>(); }
TEST(float_tanh_keeps_its_bound) { check_all_floats<Tanh>(); }
TEST(float_sigmoid_keeps_its_bound) { check_all_floats<Sigmoid>(); }
TEST(float_functions_keep_their_bounds_where_they_bend) {
  check_sampled<Exp, float>(1 << 18);
  check_sampled<Tanh, float>(1 << 18);
  check_sampled<Sigmoid, float>(1 << 18);
}
TEST(double_exp_keeps_its_bound) { check_sampled<Exp, double>(1 << 20); }
TEST(double_tanh_keeps_its_bound) { check_sampled<Tanh, double>(1 << 20); }
TEST(double_sigmoid_keeps_its_bound) { check_sampled<Sigmoid, double>(1 << 20); }

TEST(special_values_are_exact) {
  check_special_values<float>();
  check_special_values<double>();
}
TEST(relu_keeps_nan_and_step_does_not) {
  check_relu_and_step<float>();
  check_relu_and_step<double>();
}
TEST(pack_arithmetic_is_elementwise) {
  check_arithmetic<float>();
  check_arithmetic<double>();
}
TEST(groups_compute_what_their_members_do) {
  check_groups<float>();
  check_groups<double>();
}
TEST(lane_sums_come_in_the_order_of_the_packs) {
  check_lane_sums<float>();
  check_lane_sums<double>();
}
TEST(loads_and_stores_touch_only_their_elements) {
  check_loads_and_stores<float, float>();
  check_loads_and_stores<float, BFloat16>();
  check_loads_and_stores<float, Float16>();
  check_loads_and_stores<double, double>();
}
TEST(bfloat16_decodes_exactly) { check_decode<Bfloat16Format>(); }
TEST(float16_decodes_exactly) { check_decode<Float16Format>(); }
TEST(bfloat16_rounds_to_nearest_even) { check_encode<Bfloat16Format>(); }
TEST(float16_rounds_to_nearest_even) { check_encode<Float16Format>(); }

#if defined(__SSE2__)
TEST(flushing_subnormals_changes_subnormals_only) {
  const unsigned control = _mm_getcsr();
  _mm_setcsr(control | 0x8040);  // flush results and arguments
  check_decode<Float16Format>();
  const float tiny = std::ldexp(1.0f, -20);  // subnormal in float16, normal in float
  CHECK(from_float<Float16>(tiny).bits == 0x0010);
  CHECK(of<Tanh>(1e-30f) == 1e-30f);
  CHECK(of<Tanh>(1e-40f) == 0);
  CHECK(of<Sigmoid>(-100.0f) == 0 && of<Exp>(-100.0f) == 0);
  CHECK(std::isnan(of<Tanh>(float(NAN))) && std::isnan(of<Sigmoid>(float(NAN))));
  _mm_setcsr(control);
}
#endif

}  // namespace
}  // namespace fusedrnn

CHECK_MAIN()
