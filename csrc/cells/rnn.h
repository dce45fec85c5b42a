// Elman RNN: h' = act(x + r), act = tanh or ReLU.
// Source: torch.nn.RNN; Elman 1990.
#pragma once

#include "cells/cell.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

struct TanhActivation {
  static constexpr const char* kName = "rnn_tanh";
  static constexpr int kActivations = 1;
  template <class V>
  FUSEDRNN_HD static V value(const V& a) {
    return tanh(a);
  }
  // Derivative from the activation's own value.
  template <class V>
  FUSEDRNN_HD static V derivative(const V& y) {
    return V(1.0f) - y * y;
  }
};

struct ReluActivation {
  static constexpr const char* kName = "rnn_relu";
  static constexpr int kActivations = 0;
  template <class V>
  FUSEDRNN_HD static V value(const V& a) {
    return relu(a);
  }
  template <class V>
  FUSEDRNN_HD static V derivative(const V& y) {
    return heaviside(y);
  }
};

template <class V, class Activation>
struct Rnn {
  static constexpr const char* kName = Activation::kName;
  static constexpr int kGates = 1;
  static constexpr const char* kGateNames[] = {"h"};  // its one activation is its state
  static constexpr int kStates = 1;
  static constexpr int kSaved = 0;
  static constexpr int kParams = 0;
  static constexpr int kActivations = Activation::kActivations;
  static constexpr bool kSplit = false;
  static constexpr bool kProjects = false;
  static constexpr bool kReadsPrevH = false;
  static constexpr bool kReadsNextH = true;
  static constexpr CellNeeds kNeeds = CellNeeds::kNothing;

  FUSEDRNN_HD static void forward(const Values<V, kGates>& x, const Values<V, kGates>& r,
                                  const Values<V, kParams>&, const Values<V, kStates>&,
                                  Values<V, kStates>& next, Values<V, kSaved>&) {
    next[0] = Activation::value(x[0] + r[0]);
  }

  FUSEDRNN_HD static void gates(const Values<V, kSaved>&, const Values<V, kStates>& next,
                                Values<V, kGates>& activated) {
    activated[0] = next[0];
  }

  FUSEDRNN_HD static void backward(const Values<V, kSaved>&, const Values<V, kParams>&,
                                   const Values<V, kStates>&, const Values<V, kStates>& next,
                                   const Values<V, kStates>& dnext, Values<V, kGates>& dx,
                                   Values<V, kGates>& dr, Values<V, kStates>& dprev,
                                   Values<V, kParams>&) {
    dx[0] = dnext[0] * Activation::derivative(next[0]);
    dr[0] = dx[0];
    dprev[0] = V(0.0f);
  }
};

template <class V>
using RnnTanh = Rnn<V, TanhActivation>;
template <class V>
using RnnRelu = Rnn<V, ReluActivation>;

}  // namespace FUSEDRNN_ISA
FUSEDRNN_CELL(RnnTanh)
FUSEDRNN_CELL(RnnRelu)
}  // namespace fusedrnn
