// cells/: for every registered cell, forward against a plain formula, and backward against the
// derivative of forward.
//
// The derivative comes from dual numbers a + b e with e^2 = 0: forward on arguments whose one
// entry has b = 1 gives every derivative with respect to that entry in the results' b, exact
// but for rounding. Backward must agree to a few units of double's last place.
#include <cmath>
#include <random>

#include "cells/registry.h"
#include "check.h"

namespace fusedrnn {

struct Dual {
  double value = 0;
  double slope = 0;

  Dual() = default;
  explicit Dual(double v, double s = 0) : value(v), slope(s) {}
};

Dual operator-(Dual a) { return Dual(-a.value, -a.slope); }
Dual operator+(Dual a, Dual b) { return Dual(a.value + b.value, a.slope + b.slope); }
Dual operator-(Dual a, Dual b) { return Dual(a.value - b.value, a.slope - b.slope); }
Dual operator*(Dual a, Dual b) {
  return Dual(a.value * b.value, a.slope * b.value + a.value * b.slope);
}
// The derivatives are written so that they keep their accuracy where the functions saturate.
Dual tanh(Dual a) {
  const double c = std::cosh(a.value);
  return Dual(std::tanh(a.value), a.slope / (c * c));
}
Dual sigmoid(Dual a) {
  const double e = std::exp(-std::fabs(a.value));
  return Dual(1 / (1 + std::exp(-a.value)), a.slope * e / ((1 + e) * (1 + e)));
}
Dual relu(Dual a) { return a.value > 0 ? a : Dual(0); }
Dual heaviside(Dual a) { return Dual(a.value > 0 ? 1 : 0); }

namespace {

constexpr double kUnit = 2.220446049250313e-16;  // 2^-52

double sigmoid_of(double a) { return 1 / (1 + std::exp(-a)); }

// The formulas of torch's documentation, on plain arrays. `next` is h, then c. Of the other cells
// the Python tests compare forward with their references.
struct Formula {
  CellKind kind;
  void (*next)(const double* x, const double* r, const double* prev, double* next);
};

constexpr Formula kFormulas[] = {
    {kind_of<RnnTanh>, [](const double* x, const double* r, const double*,
                          double* next) { next[0] = std::tanh(x[0] + r[0]); }},
    {kind_of<RnnRelu>, [](const double* x, const double* r, const double*,
                          double* next) { next[0] = std::fmax(x[0] + r[0], 0); }},
    {kind_of<Lstm>,
     [](const double* x, const double* r, const double* prev, double* next) {
       next[1] =
           sigmoid_of(x[1] + r[1]) * prev[1] + sigmoid_of(x[0] + r[0]) * std::tanh(x[2] + r[2]);
       next[0] = sigmoid_of(x[3] + r[3]) * std::tanh(next[1]);
     }},
    {kind_of<Gru>,
     [](const double* x, const double* r, const double* prev, double* next) {
       const double z = sigmoid_of(x[1] + r[1]);
       const double n = std::tanh(x[2] + sigmoid_of(x[0] + r[0]) * r[2]);
       next[0] = (1 - z) * n + z * prev[0];
     }},
};

// What a test draws: mostly ordinary arguments, some where gates saturate, some zeros.
double draw(std::mt19937_64& random) {
  std::uniform_real_distribution<double> unit(-1, 1);
  switch (random() % 8) {
    case 0:
      return 12 * unit(random);
    case 1:
      return 1e-6 * unit(random);
    case 2:
      return 0;
    default:
      return 2 * unit(random);
  }
}

template <template <class> class Cell>
struct Arguments {
  using C = Cell<double>;
  Values<double, C::kGates> x, r;
  Values<double, C::kParams> params;
  Values<double, C::kStates> prev, dnext;

  explicit Arguments(std::mt19937_64& random) {
    for (int i = 0; i < C::kGates; ++i) {
      x[i] = draw(random);
      r[i] = draw(random);
    }
    for (int i = 0; i < C::kStates; ++i) {
      prev[i] = draw(random);
      dnext[i] = draw(random);
    }
    for (int i = 0; i < C::kParams; ++i) params[i] = draw(random);
  }
};

template <class V, int N>
Values<V, N> convert(const Values<double, N>& from) {
  Values<V, N> to;
  for (int i = 0; i < N; ++i) to[i] = V(from[i]);
  return to;
}

enum Input { kX, kR, kPrev, kParams };

// The derivative of sum(dnext * next) with respect to one entry of an input. Sets *scale to the sum
// of its terms' magnitudes, which bounds the rounding.
template <template <class> class Cell>
double derivative(const Arguments<Cell>& at, Input input, int idx, double* scale) {
  using C = Cell<Dual>;
  auto x = convert<Dual>(at.x);
  auto r = convert<Dual>(at.r);
  auto prev = convert<Dual>(at.prev);
  auto params = convert<Dual>(at.params);
  Dual& entry = input == kX      ? x[idx]
                : input == kR    ? r[idx]
                : input == kPrev ? prev[idx]
                                 : params[idx];
  entry.slope = 1;
  Values<Dual, C::kStates> next;
  Values<Dual, C::kSaved> saved;
  C::forward(x, r, params, prev, next, saved);
  double sum = 0;
  *scale = 0;
  for (int i = 0; i < C::kStates; ++i) {
    sum += at.dnext[i] * next[i].slope;
    *scale += std::fabs(at.dnext[i]);
  }
  return sum;
}

// Magnitudes of the arguments enter products of the derivative.
template <template <class> class Cell>
double magnitude(const Arguments<Cell>& at) {
  double largest = 1;
  for (int i = 0; i < Cell<double>::kGates; ++i) largest = std::fmax(largest, std::fabs(at.r[i]));
  for (int i = 0; i < Cell<double>::kStates; ++i) {
    largest = std::fmax(largest, std::fabs(at.prev[i]));
  }
  for (int i = 0; i < Cell<double>::kParams; ++i) {
    largest = std::fmax(largest, std::fabs(at.params[i]));
  }
  return largest;
}

template <template <class> class Cell>
void check_backward(CellTag<Cell>, const char* name) {
  using C = Cell<double>;
  std::mt19937_64 random(7);
  for (int trial = 0; trial < 2000; ++trial) {
    const Arguments<Cell> at(random);
    Values<double, C::kParams> dparams;
    Values<double, C::kStates> next, dprev;
    Values<double, C::kSaved> saved;
    Values<double, C::kGates> dx, dr;
    C::forward(at.x, at.r, at.params, at.prev, next, saved);
    C::backward(saved, at.params, at.prev, next, at.dnext, dx, dr, dprev, dparams);

    const auto check_one = [&](const char* what, Input input, int idx, double actual) {
      double scale;
      const double expected = derivative<Cell>(at, input, idx, &scale);
      const double allowed = 16 * kUnit * scale * magnitude<Cell>(at);
      CHECK_THAT(std::fabs(actual - expected) <= allowed,
                 "%s, trial %d, %s[%d]: got %.17g, expected %.17g, error %.3g, allowed %.3g", name,
                 trial, what, idx, actual, expected, std::fabs(actual - expected), allowed);
    };
    for (int i = 0; i < C::kGates; ++i) {
      check_one("dx", kX, i, dx[i]);
      check_one("dr", kR, i, dr[i]);
      if (!C::kSplit) CHECK_THAT(dx[i] == dr[i], "%s: dx[%d] differs from dr", name, i);
    }
    for (int i = 0; i < C::kStates; ++i) check_one("dprev", kPrev, i, dprev[i]);
    for (int i = 0; i < C::kParams; ++i) check_one("dparams", kParams, i, dparams[i]);
  }
}

template <template <class> class Cell>
void check_forward(CellTag<Cell>, const Formula& formula) {
  using C = Cell<double>;
  std::mt19937_64 random(3);
  for (int trial = 0; trial < 2000; ++trial) {
    const Arguments<Cell> at(random);
    Values<double, C::kStates> next;
    Values<double, C::kSaved> saved;
    C::forward(at.x, at.r, at.params, at.prev, next, saved);
    double expected[2] = {};
    formula.next(at.x.v, at.r.v, at.prev.v, expected);
    for (int i = 0; i < C::kStates; ++i) {
      const double allowed = 16 * kUnit * magnitude<Cell>(at);
      CHECK_THAT(std::fabs(next[i] - expected[i]) <= allowed,
                 "%s, trial %d, next[%d]: got %.17g, expected %.17g", C::kName, trial, i, next[i],
                 expected[i]);
    }
  }
}

// Outputs in the place of the inputs of the same index, as the cell contract allows.
template <template <class> class Cell>
void check_aliasing(CellTag<Cell>, const char* name) {
  using C = Cell<double>;
  std::mt19937_64 random(5);
  const Arguments<Cell> at(random);
  Values<double, C::kParams> dparams, dparams_again;
  Values<double, C::kStates> next, dprev;
  Values<double, C::kSaved> saved;
  Values<double, C::kGates> dx, dr;
  C::forward(at.x, at.r, at.params, at.prev, next, saved);
  C::backward(saved, at.params, at.prev, next, at.dnext, dx, dr, dprev, dparams);

  auto states = at.prev;
  C::forward(at.x, at.r, at.params, states, states, saved);
  auto gradients = at.dnext;
  Values<double, C::kGates> dx_again, dr_again;
  C::backward(saved, at.params, at.prev, next, gradients, dx_again, dr_again, gradients,
              dparams_again);
  for (int i = 0; i < C::kStates; ++i) {
    CHECK_THAT(states[i] == next[i], "%s: next[%d] over prev", name, i);
    CHECK_THAT(gradients[i] == dprev[i], "%s: dprev[%d] over dnext", name, i);
  }
  for (int i = 0; i < C::kGates; ++i) {
    CHECK_THAT(dx_again[i] == dx[i] && dr_again[i] == dr[i], "%s: gate %d", name, i);
  }
  for (int i = 0; i < C::kParams; ++i) {
    CHECK_THAT(dparams_again[i] == dparams[i], "%s: dparams[%d]", name, i);
  }
}

template <template <class> class Cell>
void check_nan(CellTag<Cell>, const char* name) {
  using C = Cell<float>;
  const auto check_one = [&](const char* what, Input input, int idx) {
    Values<float, C::kGates> x, r;
    Values<float, C::kParams> params;
    Values<float, C::kStates> prev, next;
    for (int i = 0; i < C::kStates; ++i) prev[i] = 0.5f;
    for (int i = 0; i < C::kGates; ++i) x[i] = r[i] = 0.25f;
    for (int i = 0; i < C::kParams; ++i) params[i] = 0.25f;
    (input == kX ? x[idx] : input == kR ? r[idx] : params[idx]) = NAN;
    Values<float, C::kSaved> saved;
    C::forward(x, r, params, prev, next, saved);
    CHECK_THAT(std::isnan(next[0]), "%s: NaN in %s[%d] gives %g", name, what, idx, double(next[0]));
  };
  for (int i = 0; i < C::kGates; ++i) {
    check_one("x", kX, i);
    check_one("r", kR, i);
  }
  for (int i = 0; i < C::kParams; ++i) check_one("params", kParams, i);
}

template <template <class> class Cell>
void check_gates_and_hidden(CellTag<Cell>, const char* name) {
  using C = Cell<double>;
  std::mt19937_64 random(11);
  const Arguments<Cell> at(random);
  Values<double, C::kStates> next;
  Values<double, C::kSaved> saved;
  Values<double, C::kGates> activated;
  C::forward(at.x, at.r, at.params, at.prev, next, saved);
  C::gates(saved, next, activated);
  for (int i = 0; i < C::kGates; ++i) {
    CHECK_THAT(std::isfinite(activated[i]), "%s: gate %s is %g", name, C::kGateNames[i],
               activated[i]);
  }
  if constexpr (C::kProjects) {
    const double h = next[0];
    next[0] = NAN;  // the states after h are given
    CHECK_THAT(C::hidden(saved, next) == h, "%s: h from what is saved", name);
  }
}

// Calls check(CellTag<Cell>, info) for every registered cell.
template <class Check>
void for_each_cell(const Check& check) {
  for (const CellInfo& info : kCells) {
    visit_cell(info.kind, [&](auto tag) { check(tag, info); });
  }
}

TEST(forward_is_the_plain_formula) {
  for (const Formula& formula : kFormulas) {
    visit_cell(formula.kind, [&](auto tag) { check_forward(tag, formula); });
  }
}
TEST(backward_is_the_derivative_of_forward) {
  for_each_cell([](auto tag, const CellInfo& info) { check_backward(tag, info.name); });
}
TEST(outputs_may_lie_over_inputs) {
  for_each_cell([](auto tag, const CellInfo& info) { check_aliasing(tag, info.name); });
}
TEST(nan_in_any_gate_or_param_reaches_h) {
  for_each_cell([](auto tag, const CellInfo& info) { check_nan(tag, info.name); });
}

TEST(gates_and_h_follow_from_what_is_saved) {
  for_each_cell([](auto tag, const CellInfo& info) { check_gates_and_hidden(tag, info.name); });
}

TEST(the_registry_is_ordered_by_kind_and_found_by_name) {
  for (int i = 0; i < kCellCount; ++i) {
    CHECK(static_cast<int>(kCells[i].kind) == i);
    CHECK(&cell_info(kCells[i].kind) == &kCells[i]);
    CHECK(find_cell(kCells[i].name) == &kCells[i]);
  }
  CHECK(find_cell("lstmp") == nullptr);
  CHECK(find_cell("") == nullptr);
}

}  // namespace
}  // namespace fusedrnn

CHECK_MAIN()
