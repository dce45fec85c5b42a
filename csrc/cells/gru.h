// GRU: r, z = sigmoid(x + r), n = tanh(x_n + r * r_n), h' = n + z * (h - n).
// Gates in torch's order r, z, n. The n gate needs the recurrent side apart, so the
// two sides have different gradients. Saved: r, z, n and the recurrent side of n.
// Source: torch.nn.GRU (the reset gate acts after the product); Cho et al. 2014.
#pragma once

#include "cells/cell.h"

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

template <class V>
struct Gru {
  static constexpr const char* kName = "gru";
  static constexpr int kGates = 3;
  static constexpr const char* kGateNames[] = {"r", "z", "n"};
  static constexpr int kStates = 1;
  static constexpr int kSaved = 4;
  static constexpr int kParams = 0;
  static constexpr int kActivations = 3;
  static constexpr bool kSplit = true;
  static constexpr bool kProjects = false;
  static constexpr bool kReadsPrevH = true;
  static constexpr bool kReadsNextH = false;
  static constexpr CellNeeds kNeeds = CellNeeds::kNothing;

  FUSEDRNN_HD static void forward(const Values<V, kGates>& x, const Values<V, kGates>& r,
                                  const Values<V, kParams>&, const Values<V, kStates>& prev,
                                  Values<V, kStates>& next, Values<V, kSaved>& saved) {
    const V reset = sigmoid(x[0] + r[0]);
    const V z = sigmoid(x[1] + r[1]);
    const V recurrent_n = r[2];
    const V n = tanh(x[2] + reset * recurrent_n);
    next[0] = n + z * (prev[0] - n);
    saved[0] = reset;
    saved[1] = z;
    saved[2] = n;
    saved[3] = recurrent_n;
  }

  FUSEDRNN_HD static void gates(const Values<V, kSaved>& saved, const Values<V, kStates>&,
                                Values<V, kGates>& activated) {
    for (int gate = 0; gate < kGates; ++gate) activated[gate] = saved[gate];
  }

  FUSEDRNN_HD static void backward(const Values<V, kSaved>& saved, const Values<V, kParams>&,
                                   const Values<V, kStates>& prev, const Values<V, kStates>&,
                                   const Values<V, kStates>& dnext, Values<V, kGates>& dx,
                                   Values<V, kGates>& dr, Values<V, kStates>& dprev,
                                   Values<V, kParams>&) {
    const V reset = saved[0], z = saved[1], n = saved[2], recurrent_n = saved[3];
    const V one = V(1.0f);
    const V dh = dnext[0];
    const V dn = dh * (one - z) * (one - n * n);
    const V h_prev = prev[0];
    dx[0] = dn * recurrent_n * reset * (one - reset);
    dx[1] = dh * (h_prev - n) * z * (one - z);
    dx[2] = dn;
    dr[0] = dx[0];
    dr[1] = dx[1];
    dr[2] = dn * reset;
    dprev[0] = dh * z;
  }
};

}  // namespace FUSEDRNN_ISA
FUSEDRNN_CELL(Gru)
}  // namespace fusedrnn
