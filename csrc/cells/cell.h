// The contract of a cell: pointwise mathematics of one time step, and nothing else.
//
// A cell is a struct templated on its value type V (float, double, a vector pack,
// a dual number) with these members. Everything particular to a cell is said by them:
// whatever else depends on the cell asks the registry.
//
//   kName        its name in operator schemas
//   kGates       gate pre-activations, i.e. rows of weight_hh / hidden_size
//   kGateNames   [kGates]
//   kStates      values a step hands to the next one; state 0 is h, state 1 is c
//   kSaved       values that backward needs besides prev and next
//   kParams      learnable values per unit besides weights and biases
//   kParamNames  [kParams]; only with kParams > 0
//   kActivations how many times forward computes exp, tanh or sigmoid
//   kSplit       the gradients of the input side and the recurrent side differ
//   kProjects    h may be projected before it is handed on
//   kReadsPrevH, kReadsNextH  backward reads prev[0], next[0]
//   kNeeds       what it needs besides the values of its unit, as CellNeeds has it
//
//   forward(x, r, params, prev, next, saved)
//   backward(saved, params, prev, next, dnext, dx, dr, dprev, dparams)
//   gates(saved, next, activated)  the activated gates, from what forward gave
//   hidden(saved, next)            with kProjects: h, from saved and the states after it
//
// x [kGates] is the input side of the pre-activation with its bias, r [kGates] the
// recurrent side with its bias, in the order of kGateNames. dnext holds the gradient of
// each next state; dprev the part of the gradient of each previous state that does
// not flow through r. Without kSplit, dr equals dx. A cell reads all of its inputs
// before it writes an output, so outputs may alias inputs of the same index.
//
// V needs +, -, *, unary -, construction from float constants as V(1.0f), and the
// overloads exp, tanh, sigmoid, relu, heaviside (1 where v > 0, else 0; NaN gives NaN
// for relu, 0 for heaviside) found by argument-dependent lookup or in math/.
//
// A header ends with FUSEDRNN_CELL(Cell) for each of its cells: what compiles the kernels of one
// header's cells (cpu/isa/cell.cpp, cuda/cell.cu) makes an instance of it.
#pragma once

#include "common/macros.h"
#include "common/types.h"
#include "math/scalar.h"

#ifndef FUSEDRNN_CELL
#define FUSEDRNN_CELL(Cell)
#endif

namespace fusedrnn {
inline namespace FUSEDRNN_ISA {

// What a schedule would have to provide for a cell. No schedule provides more than kNothing; a cell
// that needs more does not compile.
enum class CellNeeds { kNothing, kRowStatistics, kMask };

// N values of type V; N may be zero.
template <class V, int N>
struct Values {
  V v[N > 0 ? N : 1];
  FUSEDRNN_HD V& operator[](int i) { return v[i]; }
  FUSEDRNN_HD const V& operator[](int i) const { return v[i]; }
};

}  // namespace FUSEDRNN_ISA
}  // namespace fusedrnn
