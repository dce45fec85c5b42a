// LSTM: i, f, o = sigmoid(x + r), g = tanh(x + r), c' = f * c + i * g, h' = o * tanh(c').
// Gates in torch's order i, f, g, o. Saved: the four activated gates.
// Source: torch.nn.LSTM; Hochreiter and Schmidhuber 1997, Gers et al. 2000.
#pragma once

#include "cells/cell.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

template <class V>
struct Lstm {
  static constexpr const char* kName = "lstm";
  static constexpr int kGates = 4;
  static constexpr const char* kGateNames[] = {"i", "f", "g", "o"};
  static constexpr int kStates = 2;
  static constexpr int kSaved = 4;
  static constexpr int kParams = 0;
  static constexpr int kActivations = 5;
  static constexpr bool kSplit = false;
  static constexpr bool kProjects = true;
  static constexpr bool kReadsPrevH = false;
  static constexpr bool kReadsNextH = false;
  static constexpr CellNeeds kNeeds = CellNeeds::kNothing;

  FUSEDRNN_HD static void forward(const Values<V, kGates>& x, const Values<V, kGates>& r,
                                  const Values<V, kParams>&, const Values<V, kStates>& prev,
                                  Values<V, kStates>& next, Values<V, kSaved>& saved) {
    const V i = sigmoid(x[0] + r[0]);
    const V f = sigmoid(x[1] + r[1]);
    const V g = tanh(x[2] + r[2]);
    const V o = sigmoid(x[3] + r[3]);
    const V c = f * prev[1] + i * g;
    next[0] = o * tanh(c);
    next[1] = c;
    saved[0] = i;
    saved[1] = f;
    saved[2] = g;
    saved[3] = o;
  }

  FUSEDRNN_HD static void gates(const Values<V, kSaved>& saved, const Values<V, kStates>&,
                                Values<V, kGates>& activated) {
    for (int gate = 0; gate < kGates; ++gate) activated[gate] = saved[gate];
  }

  FUSEDRNN_HD static V hidden(const Values<V, kSaved>& saved, const Values<V, kStates>& next) {
    return saved[3] * tanh(next[1]);
  }

  FUSEDRNN_HD static void backward(const Values<V, kSaved>& saved, const Values<V, kParams>&,
                                   const Values<V, kStates>& prev, const Values<V, kStates>& next,
                                   const Values<V, kStates>& dnext, Values<V, kGates>& dx,
                                   Values<V, kGates>& dr, Values<V, kStates>& dprev,
                                   Values<V, kParams>&) {
    const V i = saved[0], f = saved[1], g = saved[2], o = saved[3];
    const V one = V(1.0f);
    const V tanh_c = tanh(next[1]);
    const V dh = dnext[0];
    const V dc = dnext[1] + dh * o * (one - tanh_c * tanh_c);
    const V c_prev = prev[1];
    dx[0] = dc * g * i * (one - i);
    dx[1] = dc * c_prev * f * (one - f);
    dx[2] = dc * i * (one - g * g);
    dx[3] = dh * tanh_c * o * (one - o);
    for (int gate = 0; gate < kGates; ++gate) dr[gate] = dx[gate];
    dprev[0] = V(0.0f);
    dprev[1] = dc * f;
  }
};

}  // namespace FUSEDRNN_ISA
FUSEDRNN_CELL(Lstm)
}  // namespace fusedrnn
